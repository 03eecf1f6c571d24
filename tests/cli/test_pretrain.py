"""`doran pretrain` on a few lines of text: from nothing, on from a folder, with an adapter, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doran.arch.presets import tiny
from doran.base.files import sha256_file
from doran.base.runlog import read_metrics
from doran.cli import app

FAST = ("train.lr=0.01", "train.warmup_steps=0", "train.bf16=false", "train.tokens_per_batch=64")


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = app.run(["pretrain", *map(str, args)])
    return code, *capsys.readouterr()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.jsonl"
    rows = [{"text": f"도란도란 이야기 {i} + {i} = {2 * i}"} for i in range(40)]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def test_from_nothing_it_makes_a_tokenizer_learns_and_resumes_to_the_same_bits(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "shape.json"
    shape = tiny("qwen2", vocab_size=1400, hidden_size=32, num_hidden_layers=2, max_position_embeddings=64)
    config.write_text(json.dumps(shape.to_hf()))
    args = ("--config", config, "--data", text, "--epochs", 2, *FAST, "train.checkpoint_every_steps=3")
    code, out, err = run(capsys, *args, "--out", tmp_path / "whole")
    assert code == 0 and out.strip() == str(tmp_path / "whole" / "model") and "made a tokenizer" in err, err
    losses = [row["loss"] for row in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert losses[-1] < losses[0]
    cut = tmp_path / "cut"
    assert run(capsys, *args, "--out", cut)[0] == 0
    weights = cut / "model" / "model.safetensors"
    before = sha256_file(weights)
    steps = sorted((cut / "checkpoints").iterdir())
    (steps[-1] / "tensors.safetensors").write_bytes(b"torn")  # so it must go on from the one before
    (cut / "model").rename(tmp_path / "away")
    assert run(capsys, *args, "--out", cut)[0] == 0
    assert before == sha256_file(weights) == sha256_file(tmp_path / "whole" / "model" / "model.safetensors")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(cut / "model")
    assert AutoTokenizer.from_pretrained(cut / "model").decode([]) == ""
    text.write_text(text.read_text(encoding="utf-8") * 2, encoding="utf-8")
    code, _, err = run(capsys, *args, "--out", cut)
    assert code == 2 and "was started with" in err


def test_a_folder_goes_on_whole_or_with_an_adapter(
    foreign_qwen2: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, extra in (("whole", ()), ("lora", ("--lora-rank", 2))):
        out = tmp_path / name
        args = ("--model", foreign_qwen2, "--data", text, "--out", out, *extra, *FAST, "train.steps=4")
        code, _, err = run(capsys, *args)
        assert code == 0, err
        assert (out / "model" / "tokenizer.json").exists()
        assert (out / "model" / "adapter" / "adapter_config.json").exists() == (name == "lora")


def test_wrong_options_are_one_line(
    foreign_qwen2: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.json"
    small.write_text(json.dumps(tiny("qwen2", vocab_size=40, hidden_size=32).to_hf()))
    base = ("--data", text, "--out", tmp_path / "out")
    model = ("--model", foreign_qwen2, *base)
    for args, words in [
        (base, "--config FILE to begin with"),
        ((*model, "--config", small), "one of the two"),
        ((*model, "--tokenizer", foreign_qwen2), "a model folder has its own"),
        ((*base, "--config", tmp_path / "none.json"), "no such file"),
        ((*base, "--config", small, "--tokenizer", foreign_qwen2), "has vocab_size 40"),
        ((*base, "--config", small, "--lora-rank", 2), "give --model"),
        ((*model, "--epochs", 1, "train.steps=3"), "leave one out"),
        ((*model, "--window", 4096), "1024 positions"),
        ((*model, "--window", 64, "train.tokens_per_batch=32"), "more than train.tokens_per_batch"),
        ((*model, "--field", "body"), "no text in 'body'"),
        ((*model, "train.step=3"), "did you mean train.steps?"),
    ]:
        code, out, err = run(capsys, *args)
        assert code == 2 and words in err and out == "" and "Traceback" not in err, (words, err)
    assert not (tmp_path / "out").exists()
