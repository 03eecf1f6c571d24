"""doran quantize: a folder that other verbs read, a report on stdout, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doran.cli import app


def test_a_quantised_folder_generates_and_the_damage_is_told(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, text = tmp_path / "q", tmp_path / "held.txt"
    text.write_text("도란도란 이야기 think about 3 + 4 = 7\n" * 8, encoding="utf-8")
    command = ["quantize", "--model", str(tiny_model), "--out", str(out), "--text", str(text), "--json"]
    assert app.run([*command, "--task", "arithmetic", "--n", "2", "--k", "1", "--max-new-tokens", "4"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bytes_after"] < facts["bytes_before"] / 2
    assert facts["damage"]["top1"] > 0.8 and 0 <= facts["damage"]["kl"] < 0.1
    assert set(facts["task"]) >= {"before", "after"}
    assert app.run(["generate", "--model", str(out), "--prompt", "3 + 4 =", "--max-new-tokens", "4", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["token_ids"]) <= 4
    assert app.run(command) == 2  # the folder is in use
    assert app.run(["quantize", "--model", str(out), "--out", str(tmp_path / "r")]) == 2  # quantised already


def test_without_text_the_source_writes_it_and_int4_is_smaller(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "q"
    assert (
        app.run(["quantize", "--model", str(tiny_model), "--out", str(out), "--format", "int4", "--head", "int4"]) == 0
    )
    printed = capsys.readouterr()
    assert "KL divergence" in printed.out and "writes the text" in printed.err


def test_unknown_formats_are_refused(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["quantize", "--model", str(tiny_model), "--out", str(tmp_path / "q"), "--format", "int3"]) == 2
    assert "int3" in capsys.readouterr().err
