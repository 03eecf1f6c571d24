"""`doran card` writes a README and leaves other people's alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from doran.cli import app


def test_a_card_is_written_again_but_not_over_a_strangers(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_model, folder)
    args = ["card", "--model", str(folder), "--license", "mit", "--base-model", "none"]
    assert app.run(args) == 0 and app.run(args) == 0
    readme = folder / "README.md"
    assert capsys.readouterr().out.splitlines()[-1] == str(readme)
    assert "license: mit" in readme.read_text() and "# copy" in readme.read_text()
    readme.write_text("my own")
    assert app.run(args) == 2 and "not written by doran" in capsys.readouterr().err
    assert app.run([*args, "--force"]) == 0
