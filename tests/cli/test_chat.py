"""`doran chat`: which model it talks with, from a pipe, and one clear line where there is none."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from doran.cli import app


def chat(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, asked: str, *args: object
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(asked))
    code = app.run(["chat", "--max-new-tokens", "5", *map(str, args)])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("family", ["tiny_model", "foreign_qwen2", "foreign_deepseek"])
def test_a_folder_answers_from_a_pipe(
    family: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = request.getfixturevalue(family)
    code, out, err = chat(capsys, monkeypatch, "3 + 4?\n/quit\n", "--model", model, "--temperature", 0)
    assert code == 0 and "\x1b" not in out
    assert "5 tokens" in err or "5" in err  # why the reply ended


def test_doran_speaks_korean(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    english = chat(capsys, monkeypatch, "/help\n", "--model", tiny_model)[2]
    korean = chat(capsys, monkeypatch, "/help\n", "--model", tiny_model, "--lang", "ko")[2]
    assert english != korean and any("가" <= letter <= "힣" for letter in korean)


def test_without_a_model_it_is_the_final_one_of_the_latest_run(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = chat(capsys, monkeypatch, "", "--runs-dir", tmp_path)
    assert code == 1 and out == "" and "there is no run yet" in err and "doran run recipes/tiny-r1.yaml" in err
    shutil.copytree(tiny_model, tmp_path / "mine" / "stages" / "02-base" / "model")
    (tmp_path / "latest").symlink_to("mine")
    code, _, err = chat(capsys, monkeypatch, "", "--runs-dir", tmp_path)
    assert code == 1 and "02-base/model" in err  # not finished: what there is to choose from
    shutil.copytree(tiny_model, tmp_path / "mine" / "stages" / "07-rl-all" / "model")
    assert chat(capsys, monkeypatch, "3\n", "--runs-dir", tmp_path)[0] == 0
    assert chat(capsys, monkeypatch, "3\n", "--model", tmp_path / "latest")[0] == 0


def test_wrong_options_are_one_line(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Path(shutil.copytree(tiny_model, tmp_path / "bare"))
    for file in (bare / "chat_template.jinja", bare / "tokenizer_config.json"):
        if file.exists():
            text = file.read_text(encoding="utf-8")
            file.unlink()
            if file.suffix == ".json":
                import json

                config = json.loads(text)
                config.pop("chat_template", None)
                file.write_text(json.dumps(config), encoding="utf-8")
    for args, code, words in [
        (("--lang", "kr"), 2, "--lang"),
        (("--model", tmp_path / "none"), 1, "no such folder"),
        (("--model", bare), 2, "no chat template"),
        (("--model", tiny_model, "--temperature", -1), 2, "temperature"),
        (("--model", tiny_model, "--dtype", "int8"), 2, "--dtype"),
    ]:
        got, out, err = chat(capsys, monkeypatch, "", *args)
        assert got == code and out == "" and words in err and err.startswith("error: ")
