"""Choices, fixed texts and patterns."""

from __future__ import annotations

from pathlib import Path

import pytest

from doran.base.errors import DataError
from doran.tasks import get_task
from doran.tasks.choice import judge_exact, option


@pytest.mark.parametrize(("text", "letter"), [
    ("B", "B"), ("(b)", "B"), ("B) 600", "B"), ("B.", "B"), ("B입니다", "B"), ("Option B", "B"), ("A or B", None),
    ("A) B)", None), ("Because", None), ("", None), ("600", None), ("A, B, C, D", None),
])
def test_one_option_is_named_or_none(text: str, letter: str | None) -> None:
    assert option(text) == letter


def test_choices_are_judged_by_the_stated_letter() -> None:
    assert judge_exact("B", "<think>A</think>The answer is B.", "choice").correct
    assert judge_exact("B", "정답은 B입니다.", "choice").correct
    for text in ("A", "<think>B</think>A", "Answer: A\nAnswer: B", "A) B) C) D)", "", "<think>B"):
        assert not judge_exact("B", text, "choice").correct, text


def test_texts_match_but_for_case_and_ending() -> None:
    assert judge_exact("Yes", "<think>?</think>네", "exact").correct
    assert judge_exact("white", "The answer is White.").correct
    assert not judge_exact("white", "white or black").correct


def test_patterns_match_the_whole_answer() -> None:
    assert judge_exact(r"\d{3}", "Answer: 123", "regex").correct
    assert not judge_exact(r"\d{3}", "Answer: 1234", "regex").correct
    with pytest.raises(DataError, match="regular expression"):
        judge_exact("(", "x", "regex")


def test_aqua_loads_and_scores(shared_data: Path) -> None:
    task = get_task("choice", data=str(shared_data / "aqua/dev.jsonl"), all_rows=True)
    for item in task.generate("test", 254, 0):
        assert "\nB)" in item.prompt or "\nB " in item.prompt
        assert task.score(item, f"<think>.</think>\\boxed{{{item.answer}}}").correct


def test_a_row_without_options_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "x", "correct": "A"}')
    with pytest.raises(DataError, match="line 1"):
        get_task("choice", data=str(tmp_path / "a.jsonl")).generate("train", 1, 0)
