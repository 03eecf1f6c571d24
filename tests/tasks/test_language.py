"""The language-consistency reward."""

from __future__ import annotations

import pytest

from doran.tasks.language import consistency, dominant, leaks, word_counts


def test_thirty_of_forty_words_korean_is_three_quarters() -> None:
    assert consistency("먼저 " * 30 + "then " * 10, "ko") == 0.75
    assert consistency("먼저 " * 30 + "then " * 10, "en") == 0.25


@pytest.mark.parametrize(("text", "counts"), [
    ("3 + 4 = 7", (0, 0, 0)),
    ("so x = 3 and y = 4", (0, 2, 0)),
    ("x는 3이다", (2, 0, 0)),
    ("GPU를 쓴다", (2, 0, 0)),
    ("I don't know a thing", (0, 3, 0)),
    ("\\frac{1}{2} \\times 3 맞다", (1, 0, 0)),
    ("`for i in range(3)` 실행", (1, 0, 0)),
    ("```\nprint(sum)\n``` 끝", (1, 0, 0)),
    ("<think>생각</think>", (1, 0, 0)),
    ("답은 因此 ですから", (1, 0, 2)),
    ("Привет hello", (0, 1, 1)),
    ("", (0, 0, 0)),
])
def test_words_are_counted_by_script(text: str, counts: tuple[int, int, int]) -> None:
    assert tuple(word_counts(text).values()) == counts


def test_a_wordless_thought_gets_what_it_is_told_to_get() -> None:
    assert consistency("3 * 4 = 12", "ko") == consistency("", "ko") == 0.0
    assert consistency("3 * 4 = 12", "en", wordless=1.0) == 1.0


def test_dominant_names_the_language_of_more_words() -> None:
    assert dominant("사과 세 개, apple") == "ko"
    assert dominant("three apples 사과") == "en"
    assert dominant("apple 사과") is None
    assert dominant("12") is None


def test_leaks_counts_hanja_and_kana_letters() -> None:
    assert leaks("그러므로 therefore 12 × 3") == 0
    assert leaks("因此 それ 가") == 4


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["`", "```", "<", "\\", "a", "가", "'", "<a"])
def test_a_long_hostile_text_is_counted_at_once(piece: str) -> None:
    word_counts(piece * (300_000 // len(piece)))


def test_the_leak_meter_is_a_share_of_the_letters() -> None:
    from doran.tasks.language import leak_share

    assert leak_share("가나다漢") == 0.25 and leak_share("カナ") == 1.0
    assert leak_share("") == leak_share("12 + 3") == leak_share("plain 글") == 0.0
