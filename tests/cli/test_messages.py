"""`--lang ko`: the help page, errors and hints in Korean; English where the catalogue knows nothing."""

from __future__ import annotations

import re

import pytest

from doran.cli import app
from doran.cli.messages import from_environment, spoken, told
from doran.cli.messages_ko import OPTIONS, PATTERNS, TEXTS
from doran.cli.verbs import VERBS, help_page


def test_the_help_page_is_korean_down_to_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--lang", "ko", "--help"]) == 0
    page = capsys.readouterr().out
    assert "사용법: doran 명령" in page and "시작하기:" in page
    missing = [verb.name for verb in VERBS if verb.summary in page]
    assert not missing, f"no Korean summary in messages_ko.py: {missing}"
    assert "사용법" not in help_page()


def test_errors_and_hints_are_korean_and_keep_their_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--lang", "ko", "generat"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("오류: 모르는 명령입니다: 'generat'\n도움말: 혹시 generate?")
    assert app.run(["eval", "--lang=ko", "--task", "countdown", "--model", "/none"]) == 1
    assert "오류: /none: 그런 폴더가 없습니다" in capsys.readouterr().err
    assert app.run(["--lang", "fr", "doctor"]) == 2 and "--lang" in capsys.readouterr().err


def test_a_verbs_help_is_korean(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["eval", "--help", "--lang", "ko"]) == 0
    page = capsys.readouterr().out
    assert "신뢰 구간은 95%" in page and "시드가 같으면" in page


def test_the_language_comes_from_option_variable_and_locale() -> None:
    assert spoken(["eval", "--lang", "ko", "x"], {}) == (["eval", "x"], "ko")
    assert spoken(["--lang", "ko", "chat", "--model", "m"], {})[0] == ["chat", "--model", "m", "--lang=ko"]
    assert spoken(["--lang=en"], {"LANG": "ko_KR.UTF-8"}) == ([], "en")
    assert from_environment({"LANG": "ko_KR.UTF-8"}) == "ko" and from_environment({"LANG": "de_DE"}) == "en"
    assert from_environment({"DORAN_LANG": "en", "LC_ALL": "ko_KR.UTF-8"}) == "en" and from_environment({}) == "en"


def test_unknown_messages_stay_english_and_patterns_hold_their_parts() -> None:
    assert told("something new", "ko") == "something new" and told("interrupted", "en") == "interrupted"
    for pattern, korean in PATTERNS:
        groups = re.compile(pattern).groups
        assert {int(n) for n in re.findall(r"\{(\d)\}", korean)} == set(range(groups)), pattern
    assert all(re.search("[가-힣]", text) for text in [*TEXTS.values(), *OPTIONS.values()])
