"""`doran localise measure` and `extend` on a folder from elsewhere; mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doran.cli import app


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "ko.txt"
    said = "어머니는 시장에서 사과를 사셨습니다.\n\n동생은 시장에서 배를 사셨습니다.\n\n"
    file.write_text(said * 4, encoding="utf-8")
    return file


def test_korean_is_measured_and_extended(
    foreign_qwen2: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["localise", "measure", "--model", str(foreign_qwen2), "--korean", str(text), "--json"]
    assert app.run(args) == 0
    before = json.loads(capsys.readouterr().out)
    assert before["ko"]["bytes_per_syllable"] > 3 and before["ko"]["bits_per_byte"] > 0
    out = tmp_path / "more"
    extend = ["localise", "extend", "--model", str(foreign_qwen2), "--korean", str(text), "--num-new", "20"]
    assert app.run([*extend, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert app.run(["localise", "measure", "--model", str(out), "--korean", str(text), "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after["ko"]["tokens"] < before["ko"]["tokens"] and after["en"]["tokens"] == before["en"]["tokens"]
    assert app.run([*extend, "--out", str(out)]) == 2 and "exists already" in capsys.readouterr().err


def test_mistakes_are_one_line(foreign_qwen2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    english = tmp_path / "en.txt"
    english.write_text("only English here", encoding="utf-8")
    args = ["localise", "extend", "--model", str(foreign_qwen2), "--korean", str(english), "--out", str(tmp_path / "x")]
    assert app.run(args) == 2 and "no Korean words" in capsys.readouterr().err
    assert app.run(["localise", "none.yaml"]) in (1, 2) and "none.yaml" in capsys.readouterr().err
