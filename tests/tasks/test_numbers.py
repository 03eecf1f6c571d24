"""Numbers as people write them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doran.tasks.numbers import find_value, last_value, read_value


@pytest.mark.parametrize(("text", "value"), [
    ("3", 3), ("3.0", 3), ("３．０", 3), ("1,234", 1234), ("1,234,567.5", Fraction(2469135, 2)), ("-5", -5), ("−5", -5),
    ("+5", 5), ("$18", 18), ("\\$18", 18), ("$18$", 18), ("-$5", -5), ("₩5,000", 5000), ("18 dollars", 18), ("5원", 5),
    ("3개입니다", 3), ("3개", 3), ("50%", 50), ("50\\%", 50), ("1/2", Fraction(1, 2)), ("-1/2", Fraction(-1, 2)),
    ("\\frac{1}{2}", Fraction(1, 2)), ("\\dfrac12", Fraction(1, 2)), ("1 1/2", Fraction(3, 2)),
    ("2분의 1", Fraction(1, 2)),
    ("3만 5천원", 35_000), ("12만5000원", 125_000), ("1.5만원", 15_000), ("3조각", 3), ("여섯", 6), ("사십오", 45),
    ("1.5e3", 1500), ("1.5 \\times 10^3", 1500), ("2 million", 2_000_000), ("14 cm^2", 14), ("14\\text{ cm}^2", 14),
    ("36센티미터(㎝)", 36), ("x = 7", 7), ("9 m^2", 9), ("9㎡", 9), ("3km/h", 3), ("5 m", 5), ("**7**", 7),
    ("`7`", 7), ("7.", 7), (".5", Fraction(1, 2)), ("70{,}000", 70_000),
])
def test_a_number_is_read_in_any_dress(text: str, value: Fraction | int) -> None:
    assert read_value(text) == value


@pytest.mark.parametrize("text", [
    "", "abc", "3x", "2n", "3 + 4", "3 or 4", "3 또는 4", "1,2", "1/0", "5!", "9**9", "9**9**9", "3^2", "3²", "³",
    "3^{2}", "3 x^2", "3\\pi", "2\\sqrt{3}",
    "2 pi", "3:30", "1.2.3", "1..2", "--3", "0x10", "1_000", "٣", "(3)", "3 4", "∞", "nan", "inf", "1" * 301, "9" * 100,
])
def test_what_is_no_number_is_none(text: str) -> None:
    assert read_value(text) is None


@pytest.mark.parametrize(("text", "value"), [
    ("사과 3개", 3), ("3 + 4 = 7", 7), ("about 5 apples", 5), ("18 dollars per day. Then 5", 18), ("it costs $18", 18),
    ("3 or 4", None), ("3 or 3", 3), ("2x", None), ("2 pi", None), ("(3 + 4) * 2", None), ("2^3", None), ("5!", None),
    ("the 3rd of 4", None), ("", None), ("3 = 3 = x", None), ("3개 또는 4개", None),
])
def test_a_statement_comes_down_to_its_only_number(text: str, value: int | None) -> None:
    assert find_value(text) == value


def test_the_last_number_is_found_for_lenient_scoring() -> None:
    assert last_value("first 3 then 4 apples, done") == ("4", 4)
    assert last_value("none") is None


@settings(max_examples=80, deadline=None)
@given(st.integers(-10**12, 10**12))
def test_integers_read_back_with_and_without_commas(number: int) -> None:
    assert read_value(str(number)) == read_value(f"{number:,}") == number


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_read_without_an_exception(text: str) -> None:
    read_value(text)
    find_value(text)
    last_value(text)
