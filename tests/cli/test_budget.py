"""--budget of the training verbs: cost on the progress line, exit code 5 with a checkpoint, and the receipt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doran.base.files import read_json, sha256_file
from doran.cli import app

TINY = ("train.tokens_per_batch=64", "train.bf16=false", "train.warmup_steps=0", "--threads", "1")


@pytest.fixture(autouse=True)
def no_saved_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    made = [{"prompt": f"{i} + 1 = ?", "completion": f"<think>one more</think>{i + 1}"} for i in range(12)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return file


def test_sft_stops_at_its_budget_with_a_checkpoint_and_goes_on_with_a_larger_one(
    tiny_model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["sft", "--model", str(tiny_model), "--data", str(rows), "--out", str(out), "train.epochs=2", *TINY]
    assert app.run([*command, "--budget", "0.0000001 hours"]) == 5
    said = capsys.readouterr().err
    assert "budget of" in said and "cost " in said and "at the end ~" in said and "larger budget" in said
    assert list((out / "checkpoints").glob("step_*")) and not (out / "model").exists()
    assert not (out / "receipt.json").exists() and read_json(out / "seconds.json")["seconds"] > 0
    assert app.run([*command, "--budget", "0.0000001 hours"]) == 5  # used up: not one step more
    assert app.run([*command, "--budget", "1 hours"]) == 0
    receipt = read_json(out / "receipt.json")
    assert receipt["stage"] == "sft" and receipt["tokens"] > 0 and receipt["flops"] > 0 and receipt["money"]["krw"] > 0
    assert receipt["inputs_sha256"]["data"] == {"rows.jsonl": sha256_file(rows)}
    assert receipt["inputs_sha256"]["model"]["model.safetensors"] == sha256_file(tiny_model / "model.safetensors")
    assert receipt["weights_sha256"]["model.safetensors"] == sha256_file(out / "model" / "model.safetensors")
    assert receipt["seconds"] == pytest.approx(sum(receipt["seconds_by_phase"].values()), abs=0.05)
    assert app.run([*command, "--budget", "0.0000001 hours"]) == 0  # finished: nothing more is spent
    assert read_json(out / "receipt.json") == receipt


@pytest.mark.parametrize("verb", ["sft", "rl", "distill", "pretrain"])
def test_a_wrong_budget_is_refused_before_anything_is_read(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = str(tmp_path / "none")
    options = {
        "sft": ["--model", none, "--data", none],
        "rl": ["--model", none, "--task", "countdown"],
        "distill": ["--model", none, "--teacher", none, "--task", "countdown"],
        "pretrain": ["--model", none, "--data", none],
    }[verb]
    assert app.run([verb, *options, "--out", str(tmp_path / "out"), "--budget", "3 bananas"]) == 2
    assert "'3 bananas' has no known unit" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_pretrain_and_rl_leave_receipts(tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text("도란도란 이야기를 나눕니다. " * 60, encoding="utf-8")
    common = ["--model", str(tiny_model), "train.steps=1", "train.bf16=false", "--threads", "1"]
    out = tmp_path / "pre"
    wide = ["train.tokens_per_batch=64", "--window", "64"]
    assert app.run(["pretrain", "--data", str(text), "--out", str(out), *wide, *common]) == 0
    assert read_json(out / "receipt.json")["inputs_sha256"]["data/book.txt"] == {"book.txt": sha256_file(text)}
    out = tmp_path / "rl"
    small = ["train.prompts_per_step=2", "train.group_size=2", "train.max_new_tokens=8", "--pool", "8"]
    assert app.run(["rl", "--task", "arithmetic", "--out", str(out), *small, *common]) == 0
    phases = read_json(out / "receipt.json")["seconds_by_phase"]
    assert {"time/sample", "time/score", "time/update", "other"} <= set(phases)
