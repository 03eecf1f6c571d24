"""Where the answer is: after the thought, in the place that states it."""

from __future__ import annotations

import pytest

from doran.tasks.answer import MAX_ANSWER_CHARS, answer_part, boxed, stated


@pytest.mark.parametrize(("text", "part"), [
    ("plain", "plain"),
    ("<think>a</think> b ", "b"),
    ("a</think>b", "b"),
    ("<think>a", None),
    ("<think>a</think>b<think>c", None),
    ("<think>a</think>b</think>c", "c"),
    ("x</think>b<|im_end|>\n<|endoftext|>", "b"),
    ("x</think>b</s>", "b"),
    ("", ""),
    ("<think>a</think>", ""),
])
def test_the_answer_part_is_what_follows_the_thought(text: str, part: str | None) -> None:
    assert answer_part(text) == part


@pytest.mark.parametrize(("text", "kind", "spans"), [
    ("<answer>1</answer> \\boxed{2}", "tag", ["1"]),
    ("\\boxed{1} so the answer is 2", "boxed", ["1"]),
    ("work\n#### 18", "hashes", ["18"]),
    ("Answer: 3", "marker", ["3"]),
    ("**Final answer:** 3", "marker", ["3"]),
    ("so\nA: 18", "marker", ["18"]),
    ("정답: 3", "marker", ["3"]),
    ("답：3", "marker", ["3"]),
    ("대답: 3", None, None),
    ("The answer is 18.", "sentence", ["18."]),
    ("The answer is not 18.", None, None),
    ("따라서 정답은 3입니다.", "sentence", ["3"]),
    ("답은 사과 3개이다.", "sentence", ["사과 3개"]),
    ("정답은 3이 아닙니다.", None, None),
    ("nothing here", None, None),
    ("<answer>1</answer><answer>2</answer>", "tag", ["1", "2"]),
])
def test_the_statement_found_first_in_the_order_of_trust_counts(text: str, kind: str | None, spans: list[str]) -> None:
    found = stated(text)
    assert (found.kind, found.spans) == (kind, spans) if kind else found is None  # type: ignore[union-attr]


def test_answers_conflict_unless_they_differ_by_spaces_only() -> None:
    assert not stated("\\boxed{1 + 2} \\boxed{1+2}").conflicting  # type: ignore[union-attr]
    assert stated("\\boxed{1} \\boxed{2}").conflicting  # type: ignore[union-attr]


def test_boxes_are_read_with_their_braces() -> None:
    assert boxed("\\boxed{\\frac{1}{2}} and \\fbox{x}") == ["\\frac{1}{2}", "x"]
    assert boxed("\\boxed{open") == []
    assert boxed("\\boxed{\\boxed{1}}") == ["\\boxed{1}"]


def test_an_answer_beyond_the_limit_is_not_read() -> None:
    assert stated("\\boxed{1}" + "x" * MAX_ANSWER_CHARS) is None


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", [
    "<answer>", "</answer>", "\\boxed{", "\\boxed{}", "answer is ", "답은 ", "#", "A:\n", "<|", " ", "<think>",
    "</think>", "**", "정답: ",
])
def test_a_megabyte_of_anything_is_read_at_once(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    stated(answer_part(text) or "")
    stated(text[:MAX_ANSWER_CHARS])
