"""`doran serve`: what it refuses, the keys it makes, and what it hands to the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from doran.cli import app


def test_a_key_is_printed_once_and_only_its_hash_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys"
    assert app.run(["serve", "--keys", str(keys), "--new-key", "me"]) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("sk-doran-") and key not in keys.read_text() and keys.read_text().startswith("me:")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--host", "0.0.0.0"], 2, "no keys"), (["--new-key", "me"], 2, "--keys"),
        (["--keys", "nowhere"], 2, "nowhere"),
        (["--model", "nowhere"], 1, "nowhere"), (["--runs-dir", "nowhere"], 1, "no run yet"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_an_exit_code(
    args: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("fastapi")
    monkeypatch.chdir(tmp_path)
    assert app.run(["serve", *args]) == code
    assert words in capsys.readouterr().err


def test_it_serves_the_folder_on_loopback(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    seen: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda application, **given: seen.update(given, app=application))
    assert app.run(["serve", "--model", str(tiny_model), "--port", "8123", "--max-tokens", "77", "--log-prompts"]) == 0
    assert seen["host"] == "127.0.0.1" and seen["port"] == 8123
    settings = seen["app"].service.settings
    assert settings.max_tokens_default == 77 and settings.log_prompts and settings.name == tiny_model.parent.name
