"""`doran generate`: one JSON object that scripts can rely on, equal to transformers' greedy tokens and logprobs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from doran.cli import app

KEYS = ["token_ids", "logprobs", "text", "reasoning", "finish_reason"]


def generate(capsys: pytest.CaptureFixture[str], model: Path, *args: str) -> dict[str, Any]:
    code = app.run(["generate", "--model", str(model), "--json", *args])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    code = app.run(["generate", *args])
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return code, err


def test_greedy_tokens_and_logprobs_are_those_of_transformers(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    record = generate(capsys, tiny_model, "--prompt-ids", "9,10, 11", "--max-new-tokens", "12", "--temperature", "0")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    ids = torch.tensor([[9, 10, 11]])
    expected = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    assert list(record) == KEYS and record["token_ids"] == expected[0, 3:].tolist()
    logprobs = model(expected).logits[0].log_softmax(-1)[2:-1]
    chosen = logprobs.gather(1, expected[0, 3:, None])[:, 0]
    assert torch.allclose(torch.tensor(record["logprobs"]), chosen, atol=1e-4)


def test_the_seed_decides_and_nothing_else(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sample(seed: str) -> list[int]:
        args = ("--prompt", "3 + 4", "--max-new-tokens", "8", "--temperature", "1", "--seed", seed)
        return generate(capsys, tiny_model, *args)["token_ids"]

    assert sample("1") == sample("1") != sample("2")


def test_text_is_what_the_ids_say(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from doran.text.tokenizer import Tokenizer

    record = generate(capsys, tiny_model, "--prompt", "안녕", "--max-new-tokens", "8")
    assert record["finish_reason"] == "length" and len(record["logprobs"]) == len(record["token_ids"]) == 8
    assert record["text"] == Tokenizer.load(tiny_model).decode(record["token_ids"], skip_special=True)


def test_a_folder_without_tokenizer_still_continues_ids(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = Path(shutil.copytree(tiny_model, tmp_path / "bare"))
    for file in bare.glob("*token*"):
        file.unlink()
    args = ("--prompt-ids", "9,10,11", "--max-new-tokens", "6", "--temperature", "0")
    record, whole = generate(capsys, bare, *args), generate(capsys, tiny_model, *args)
    assert record["token_ids"] == whole["token_ids"] and record["text"] is None and record["reasoning"] is None


def test_a_stop_token_ends_the_reply_and_its_thought_is_split_off() -> None:
    from types import SimpleNamespace

    from doran.cli.generate import as_record
    from doran.engine.request import Completion

    words = {1: "<think>", 2: "3 + 4", 3: "</think>", 4: "7", 9: "<|end|>"}
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special=False: "".join(words[i] for i in ids))
    opened: Any = SimpleNamespace(tokenizer=tokenizer)
    record = as_record(Completion([1, 2, 3, 4, 9], [-0.1] * 5, "stop"), opened, in_thought=False)
    assert (record["text"], record["reasoning"]) == ("<think>3 + 4</think>7", "3 + 4") and record["token_ids"][-1] == 9
    assert as_record(Completion([2, 3, 4], [-0.1] * 3, "length"), opened, in_thought=True)["reasoning"] == "3 + 4"


def test_people_see_the_same_reply_as_scripts(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--prompt", "3 + 4", "--max-new-tokens", "8", "--temperature", "1", "--seed", "3"]
    record = generate(capsys, tiny_model, *args)
    assert app.run(["generate", "--model", str(tiny_model), *args]) == 0
    assert capsys.readouterr().out.rstrip("\n") == record["text"].rstrip("\n")


def test_guessing_ahead_changes_nothing_that_is_said(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--prompt", "3 + 4", "--max-new-tokens", "20", "--temperature", "1", "--seed", "3"]
    plain = generate(capsys, tiny_model, *args)
    args += ["--speculate", "ngram", "--draft-tokens", "3"]
    assert generate(capsys, tiny_model, *args) == plain
    assert app.run(["generate", "--model", str(tiny_model), *args]) == 0
    assert capsys.readouterr().out.rstrip("\n") == plain["text"].rstrip("\n")


def test_raw_continues_the_text_itself(tiny_model: Path) -> None:
    from doran.cli.generate import encode_prompt
    from doran.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(tiny_model)
    assert encode_prompt(tokenizer, "3<think>", raw=True)[0] == tokenizer.encode("3<think>", specials=True)
    assert encode_prompt(tokenizer, "3", raw=False)[0] == tokenizer.encode(
        "<|begin|><|User|>3<|Assistant|>", specials=True
    )


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ([], 2, "--prompt or --prompt-ids"),
        (["--prompt", "a", "--prompt-ids", "1"], 2, "--prompt or --prompt-ids"),
        (["--prompt-ids", "1,x"], 2, "'x' is not a token id"),
        (["--prompt-ids", ","], 2, "no token id given"),
        (["--prompt-ids", "99999"], 2, "99999"),
        (["--prompt", "a", "--temperature", "-1"], 2, "temperature"),
        (["--prompt", "a", "--temperature", "nan"], 2, "temperature"),
        (["--prompt", "a", "--max-new-tokens", "0"], 2, "max_new_tokens"),
        (["--prompt", "a", "--dtype", "float61"], 2, "unknown type 'float61'"),
        (["--prompt", "", "--raw"], 2, "empty"),
        (["--prompt", "a", "--speculate", "oracle"], 2, "unknown drafts 'oracle'"),
        (["--prompt", "a", "--speculate", "ngram", "--draft-tokens", "99"], 2, "draft_tokens is 99"),
    ],
)
def test_wrong_options_are_one_line(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, words: str
) -> None:
    got, err = refused(capsys, "--model", str(tiny_model), *args)
    assert got == code and words in err


def test_broken_folders_are_named(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "--model", str(tmp_path / "none"), "--prompt", "a") == (
        1, f"error: {tmp_path}/none: no such folder\nhint: give a folder with config.json and *.safetensors\n",
    )  # fmt: skip
    torn = Path(shutil.copytree(tiny_model, tmp_path / "torn"))
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    code, err = refused(capsys, "--model", str(torn), "--prompt", "a")
    assert code == 1 and "model.safetensors" in err
    weights.unlink()
    assert refused(capsys, "--model", str(torn), "--prompt", "a")[0] == 1
    (torn / "tokenizer.json").unlink()
    assert "tokenizer" in refused(capsys, "--model", str(torn), "--prompt", "a")[1]


def test_a_run_folder_means_its_model_or_lists_its_stages(tiny_model: Path, tmp_path: Path) -> None:
    from doran.base.errors import ArtifactError
    from doran.cli.loading import model_folder

    run = tmp_path / "run"
    shutil.copytree(tiny_model, run / "stages" / "01-base" / "model")
    assert model_folder(run / "stages" / "01-base") == run / "stages" / "01-base" / "model"
    with pytest.raises(ArtifactError, match="choose one of: .*01-base/model"):
        model_folder(run)


def test_weights_larger_than_memory_are_refused_before_loading(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("doran.cli.loading.available_memory", lambda: 1000)
    code, err = refused(capsys, "--model", str(tiny_model), "--prompt", "a")
    assert code == 4 and "GiB" in err
