"""Particles and Korean numerals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doran.tasks.korean import count, josa, native, read_number, read_quantity, sino, won
from doran.tasks.math import judge_number
from doran.tasks.numbers import read_value


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


@pytest.mark.parametrize(("number", "counter", "said"), [
    (3, "명", "세 명"), (20, "살", "스무 살"), (21, "개", "스물한 개"), (7, "년", "칠 년"),
    (120, "개", "백이십 개"), (1, "시간", "한 시간"),
])
def test_counting_takes_the_numerals_the_counter_wants(number: int, counter: str, said: str) -> None:
    assert count(number, counter) == said
    assert read_quantity(said) == number


@pytest.mark.parametrize(("number", "written"), [
    (32000, "3만 2천 원"), (1200, "1200 원"), (120_000_000, "1억 2천만 원"),
    (12345, "1만 2345 원"), (0, "0 원"), (10**8, "1억 원"),
])
def test_amounts_of_money_are_written_and_read(number: int, written: str) -> None:
    assert won(number) == written
    assert judge_number(str(number), f"정답은 {written}입니다.").correct


@given(st.integers(0, 10**12))
def test_every_amount_is_read_back(number: int) -> None:
    assert read_value(won(number)) == number
    assert read_value(f"{sino(number)} 원") == number


@pytest.mark.parametrize(("gold", "text"), [
    ("32", "정답은 삼십이입니다"), ("32000", "삼만 이천 원"),
    ("1200", "1,200원"),
    ("30000000", "3천만 원"), ("3", "정답은 세 개입니다"),
    ("5", "다섯 마리예요"), ("0.5", "이분의 일"), ("1.5", "일 점 오"),
    ("-3", "영하 3도"), ("-3", "마이너스 삼"), ("10", "열흘"),
    ("25", "이십오 퍼센트"), ("3", "답: 3 (개)"), ("2500", "2천5백원"), ("15000", "만 오천 원"),
])
def test_answers_in_korean_words_count(gold: str, text: str) -> None:
    assert judge_number(gold, text).correct


@pytest.mark.parametrize(("gold", "text"), [
    ("3000", "3천만 원"), ("3", "세상"), ("2", "이것"), ("5", "오늘"),
    ("3", "세 개 또는 네 개"), ("3", "영하 3도"), ("2", "2(x)"), ("4", "사람"),
    ("1", "하루 이틀"), ("10", "열심히"),
])
def test_other_korean_words_are_no_numbers(gold: str, text: str) -> None:
    assert not judge_number(gold, text).correct
