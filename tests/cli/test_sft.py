"""`doran sft` and `doran distill` on folders from elsewhere: what is learned, what is refused, and a second start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from doran.base.files import sha256_file
from doran.base.runlog import read_metrics
from doran.cli import app

SAID = "<think>three and four</think>7"
LEARN = ("train.lr=0.01", "train.warmup_steps=0", "train.weight_decay=0.0", "train.bf16=false")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = app.run([str(arg) for arg in args])
    return code, *capsys.readouterr()


def generated(capsys: pytest.CaptureFixture[str], model: Path, prompt: str) -> dict[str, Any]:
    args = ("--prompt", prompt, "--temperature", 0, "--max-new-tokens", 40, "--json")
    code, out, err = run(capsys, "generate", "--model", model, *args)
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions that all have the answer 7, so that a model can learn the task by heart."""
    rows = [{"prompt": f"What is {i + 7} - {i}?", "answer": "7"} for i in range(20)]
    return write_rows(tmp_path_factory.mktemp("questions") / "sevens.jsonl", rows)


@pytest.fixture(scope="module")
def teacher(foreign_deepseek: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepSeek-V3 folder from transformers that has learned one reply by heart."""
    folder = tmp_path_factory.mktemp("teacher")
    rows = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    data = write_rows(folder / "data.jsonl", [{"prompt": row["prompt"], "completion": SAID} for row in rows])
    args = ["--model", foreign_deepseek, "--data", data, "--out", folder / "out", "train.epochs=40", *LEARN]
    assert app.run(["sft", *map(str, args)]) == 0
    return folder / "out" / "model"


def test_a_foreign_folder_learns_replies_and_stops(teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = generated(capsys, teacher, "What is 9 - 2?")
    assert (record["text"], record["reasoning"], record["finish_reason"]) == (SAID, "three and four", "stop")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(teacher), AutoModelForCausalLM.from_pretrained(teacher)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 9 - 2?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    ids = model.generate(**chat, max_new_tokens=40, do_sample=False)[0, chat["input_ids"].shape[1] :]
    assert ids.tolist() == record["token_ids"]


def test_messages_of_several_turns_are_learned_and_a_second_start_does_nothing(
    foreign_qwen2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [("user", "3 + 4?"), ("assistant", "7"), ("user", "도란?"), ("assistant", "이야기")]
    data = write_rows(tmp_path / "chats.jsonl", [{"messages": [{"role": r, "content": c} for r, c in turns]}] * 4)
    args = ("sft", "--model", foreign_qwen2, "--data", data, "--out", tmp_path / "out", "train.epochs=2")
    code, out, err = run(capsys, *args)
    assert code == 0 and out.strip() == str(tmp_path / "out" / "model"), err
    weights = sha256_file(tmp_path / "out" / "model" / "model.safetensors")
    code, out, err = run(capsys, *args)
    assert code == 0 and "nothing to do" in err
    assert sha256_file(tmp_path / "out" / "model" / "model.safetensors") == weights
    assert run(capsys, *args[:-1], "train.epochs=3")[0] == 2


def test_plain_text_and_other_field_names(
    foreign_qwen2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"question": "3 + 4?", "answer": "7"}] * 4)
    args = ("sft", "--model", foreign_qwen2, "--data", data, "--style", "plain", "--rename", "question=prompt")
    code, _, err = run(capsys, *args, "--out", tmp_path / "out", "train.epochs=1")
    assert code == 0, err
    assert read_metrics(tmp_path / "out" / "metrics.jsonl")[0]["loss_tokens"] == 4 * 2  # "7" and the end token


def test_a_teacher_of_another_family_teaches_what_passed_the_filters(
    teacher: Path, foreign_qwen2: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    args = ("distill", "--teacher", teacher, "--model", foreign_qwen2, "--task", "jsonl", "--data", questions, "--out",
            out, "--questions", 12, "--samples", 2, "sampling.max_new_tokens=40", "train.epochs=60",
            *LEARN)  # fmt: skip
    code, said, err = run(capsys, *args)
    assert code == 0 and said.strip() == str(out / "model"), err
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 12 and all(row["messages"][1]["content"] == SAID for row in rows)
    assert generated(capsys, out / "model", "What is 8 - 1?")["text"] == SAID
    code, _, err = run(capsys, *args)
    assert code == 0 and "kept 12 of 24 samples" in err and "nothing to do" in err


def test_a_teacher_that_is_never_right_is_told(
    foreign_qwen2: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("distill", "--teacher", foreign_qwen2, "--model", foreign_qwen2, "--task", "jsonl", "--data", questions)
    small = ("--out", tmp_path / "out", "--questions", 2, "--samples", 2, "sampling.max_new_tokens=4")
    code, out, err = run(capsys, *args, *small)
    assert code == 2 and out == "" and "none of 4 samples" in err and not (tmp_path / "out" / "model").exists()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "3 + 4"}, "line 1: neither 'messages' nor 'prompt'"),
        ({"prompt": "3 + 4"}, "line 1: a 'prompt' without 'answer'"),
        ({"messages": [{"role": "user", "content": "3 + 4"}]}, "line 1: no assistant message"),
    ],
)
def test_a_row_that_teaches_nothing_is_named(
    foreign_qwen2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], words: str
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [row])
    code, _, err = run(capsys, "sft", "--model", foreign_qwen2, "--data", data, "--out", tmp_path / "out")
    assert code == 2 and words in err and not (tmp_path / "out").exists()


def test_wrong_options_are_one_line(foreign_qwen2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": "3 + 4?", "answer": "7"}])
    sft = ("sft", "--model", foreign_qwen2, "--data", data, "--out", tmp_path / "out")
    distill = ("distill", "--model", foreign_qwen2, "--task", "arithmetic", "--out", tmp_path / "out")
    for args, code, words in [
        ((*sft, "train.epoch=2"), 2, "did you mean train.epochs?"),
        ((*sft, "--style", "cht"), 2, "did you mean chat?"),
        ((*sft, "--rename", "question"), 2, "no THEIRS=OURS"),
        (sft[:-2], 2, "--out"),
        ((*sft[:3], "--data", tmp_path / "none.jsonl", "--out", tmp_path / "out"), 2, "no such file"),
        (("sft", "--model", tmp_path / "none", *sft[3:]), 1, "no such folder"),
        ((*distill, "--teacher", tmp_path / "none"), 1, "no such folder"),
        ((*distill, "--teacher", foreign_qwen2, "sampling.tempature=1"), 2, "temperature"),
        ((*distill, "--teacher", foreign_qwen2, "sampling.samples=1"), 2, "use --samples N"),
    ]:
        got, out, err = run(capsys, *args)
        assert got == code and words in err and out == "", err
    assert not (tmp_path / "out").exists()


def test_lora_leaves_a_merged_model_and_an_adapter(
    foreign_qwen2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": "3 + 4?", "completion": SAID}] * 4)
    args = ("sft", "--model", foreign_qwen2, "--data", data, "--out", tmp_path / "out", "train.epochs=60", *LEARN)
    code, _, err = run(capsys, *args, "--lora-rank", 4, "--lora-targets", "q_proj,down_proj,o_proj")
    assert code == 0, err
    assert generated(capsys, tmp_path / "out" / "model", "3 + 4?")["text"] == SAID
    config = json.loads((tmp_path / "out" / "model" / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 4 and config["lora_alpha"] == 8.0
    assert run(capsys, *args)[0] == 2  # the folder is LoRA's
    assert run(capsys, *args, "--lora-alpha", 4)[0] == 2


def test_rl_samples_with_the_merged_weights(
    foreign_qwen2: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("rl", "--model", foreign_qwen2, "--task", "jsonl", "--data", questions, "--out", tmp_path / "out")
    small = ("train.steps=3", "train.prompts_per_step=2", "train.group_size=2", "train.max_new_tokens=8",
             "train.lr=0.1", "train.warmup_steps=0", "train.bf16=false", "train.rollout_bf16=false",
             "train.drop_zero_variance=false", "train.entropy_coef=0.1")  # fmt: skip
    code, _, err = run(capsys, *args, "--lora-rank", 2, *small)
    assert code == 0, err
    rows = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert rows[-1]["gap/max"] < 1e-3  # the engine and the trainer mean the same model
