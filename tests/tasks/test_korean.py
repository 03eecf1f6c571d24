"""Particles and Korean numerals."""

from __future__ import annotations

import pytest

from doran.tasks.korean import josa, native, read_number, sino


@pytest.mark.parametrize(("word", "pair", "expected"), [
    ("책", "을/를", "책을"), ("사과", "을/를", "사과를"), ("민지", "은/는", "민지는"), ("지훈", "이/가", "지훈이"),
    ("12", "을/를", "12를"), ("45", "을/를", "45를"), ("10", "을/를", "10을"), ("100", "이/가", "100이"),
    ("10000", "을/를", "10000을"), ("0", "을/를", "0을"), ("1", "은/는", "1은"), ("3", "과/와", "3과"),
    ("2", "과/와", "2와"), ("7", "으로/로", "7로"), ("3", "으로/로", "3으로"), ("서울", "으로/로", "서울로"),
    ("부산", "으로/로", "부산으로"), ("1,000,000,000,000", "을/를", "1,000,000,000,000를"),
    ("(3 + 4)", "을/를", "(3 + 4)를"), ("x", "을/를", "x를"), ("", "을/를", "를"),
])
def test_the_particle_fits_the_last_sound(word: str, pair: str, expected: str) -> None:
    assert josa(word, pair) == expected


def test_particles_after_one_digit_numbers_follow_their_sino_korean_reading() -> None:
    assert [josa(str(n), "을/를")[-1] for n in range(10)] == list("을을를을를를을을을를")


@pytest.mark.parametrize(("number", "reading"), [
    (0, "영"), (10, "십"), (11, "십일"), (45, "사십오"), (100, "백"), (1_234, "천이백삼십사"), (10_000, "만"),
    (20_000, "이만"), (110_000, "십일만"), (100_000_000, "일억"), (120_003_400, "일억이천만삼천사백"),
])
def test_sino_korean_readings_both_ways(number: int, reading: str) -> None:
    assert sino(number) == reading
    assert read_number(reading) == number


def test_every_number_to_ten_thousand_reads_back() -> None:
    assert all(read_number(sino(n)) == n for n in range(0, 10_001, 7))


def test_native_readings_both_ways() -> None:
    assert [native(n) for n in (1, 4, 10, 20, 21, 99)] == ["하나", "넷", "열", "스물", "스물하나", "아흔아홉"]
    assert [native(n, counting=True) for n in (1, 2, 3, 4, 20, 21, 11)] == ["한", "두", "세", "네", "스무", "스물한",
    "열한"]
    for n in range(1, 100):
        assert read_number(native(n)) == read_number(native(n, counting=True)) == n


@pytest.mark.parametrize(("text", "number"), [
    ("3만 5천", 35_000), ("12만5000", 125_000), ("1,200만", 12_000_000), ("5천", 5000), ("2억", 200_000_000),
    ("만", 10_000), ("사과", None), ("", None), ("만만", None), ("만억", None), ("3만5만", None), ("12", 12),
])
def test_mixed_spellings_are_read(text: str, number: int | None) -> None:
    assert read_number(text) == number


def test_numbers_without_a_reading_are_refused() -> None:
    for wrong in (-1, 10**20):
        with pytest.raises(ValueError):
            sino(wrong)
    with pytest.raises(ValueError):
        native(0)
