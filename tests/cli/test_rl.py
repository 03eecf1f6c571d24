"""`doran rl` on folders from elsewhere: real GSM8K rows, rewards, resuming, and one clear line for a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doran.base.files import sha256_file
from doran.base.runlog import read_metrics
from doran.cli import app

TINY = (
    "train.steps=2", "train.prompts_per_step=2", "train.group_size=2", "train.max_new_tokens=6", "train.warmup_steps=0",
)  # fmt: skip


def rl(capsys: pytest.CaptureFixture[str], model: Path, out: Path, *args: str) -> tuple[int, str, str]:
    code = app.run(["rl", "--model", str(model), "--out", str(out), *args])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("family", ["foreign_qwen2", "foreign_deepseek"])
def test_a_foreign_folder_is_trained_on_real_gsm8k(
    family: str, shared_data: Path, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, out = request.getfixturevalue(family), tmp_path / "out"
    data = str(shared_data / "gsm8k" / "train.jsonl.gz")
    # a random model is never right: rewarding the language of nothing is the one reward that varies
    args = ("--task", "gsm8k", "--data", data, "--reward", "accuracy=1", "--reward", "language=0.2", "--pool", "20")
    code, said, err = rl(capsys, model, out, *args, *TINY)
    assert code == 0, err
    assert said.strip() == str(out / "model")
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert {"reward", "reward_std", "kl", "rewards/accuracy/mean", "rewards/language/mean"} <= set(rows[0])
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert samples and samples[0]["prompt"].startswith("<|im_start|>user\n")
    assert samples[0]["prompt"].endswith("<|im_start|>assistant\n")
    made = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    chat = [{"role": "user", "content": "3 + 4"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n3 + 4<|im_end|>\n<|im_start|>assistant\n"
    assert torch.isfinite(made(torch.tensor([[3, 4, 5]])).logits).all()
    made.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=2, do_sample=False, pad_token_id=0)


def test_rewards_move_the_weights_and_a_second_start_does_nothing(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    args = ("--task", "arithmetic", "--reward", "language=1", "--style", "plain", "--watch-every", "1",
            "--watch-items", "2", *TINY)  # fmt: skip
    assert rl(capsys, tiny_model, out, *args)[0] == 0
    assert {"eval/pass@1", "eval/mean_length"} <= set(read_metrics(out / "metrics.jsonl")[0])
    weights = sha256_file(out / "model" / "model.safetensors")
    assert weights != sha256_file(tiny_model / "model.safetensors")
    code, said, err = rl(capsys, tiny_model, out, *args)
    assert (code, said.strip()) == (0, str(out / "model")) and "nothing to do" in err
    assert sha256_file(out / "model" / "model.safetensors") == weights


def test_another_command_does_not_continue_what_is_there(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("--task", "arithmetic", "--style", "plain", *TINY)
    assert rl(capsys, tiny_model, tmp_path / "out", *args)[0] == 0
    code, _, err = rl(capsys, tiny_model, tmp_path / "out", *args, "--reward", "accuracy=2")
    assert code == 2 and "was made with rewards" in err and "--out" in err
    code, _, err = rl(capsys, tiny_model, tmp_path / "out", *args, "train.lr=3e-5")
    assert code == 2 and "lr" in err
    assert rl(capsys, tiny_model, tiny_model, *args)[0] == 2


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--task", "arithmetic", "--reward", "acuracy=1"], 2, "did you mean accuracy?"),
        (["--task", "arithmetic", "--reward", "accuracy"], 2, "no NAME=WEIGHT"),
        (["--task", "arithmetic", "train.stps=3"], 2, "did you mean train.steps?"),
        (["--task", "arithmetic", "steps=3"], 2, "did you mean train.steps?"),
        (["--task", "arithmetic", "train.group_size=1"], 2, "train.group_size"),
        (["--task", "arithmetics"], 2, "did you mean arithmetic?"),
        (["--task", "gsm8k"], 2, "needs a file"),
    ],
)
def test_wrong_options_are_one_line_and_leave_no_folder(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, words: str
) -> None:
    got, out, err = rl(capsys, tiny_model, tmp_path / "out", *args)
    assert got == code and out == "" and words in err and err.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_a_broken_line_of_data_is_named(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text('{"prompt": "3 + 4?", "answer": "7"}\n{"prompt": "3 + 5?"}\n', encoding="utf-8")
    code, _, err = rl(capsys, tiny_model, tmp_path / "out", "--task", "jsonl", "--data", str(data), *TINY)
    assert code == 2 and f"{data}, line 2: answer is missing" in err


def test_a_missing_model_is_an_artifact_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = rl(capsys, tmp_path / "none", tmp_path / "out", "--task", "arithmetic")
    assert code == 1 and "no such folder" in err
