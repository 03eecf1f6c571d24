"""The paired test against counting every flip by hand, and what is not comparable."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doran.base.errors import UsageError
from doran.evals.compare import compare, sign_flip_p
from doran.evals.metrics import Outcome
from doran.evals.run import EvalResult, ItemResult


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_the_p_value_is_the_share_of_all_sign_flips_as_extreme(differences):
    flips = [abs(sum(s * d for s, d in zip(signs, differences)))
             for signs in itertools.product((1, -1), repeat=len(differences))]  # fmt: skip
    extreme = sum(value >= abs(sum(differences)) for value in flips) / len(flips)
    assert sign_flip_p(differences) == pytest.approx(extreme)


def test_for_single_replies_it_is_mcnemars_exact_test():
    wins, losses = 9, 2
    binomial = 2 * sum(math.comb(11, i) for i in range(losses + 1)) / 2**11
    assert sign_flip_p([1] * wins + [-1] * losses + [0] * 30) == pytest.approx(binomial)


def result(right: list[int], k: int = 1, recipe: dict | None = None, languages=("en",)) -> EvalResult:
    items = [
        ItemResult(f"q{i}", language, "?", "7", [Outcome("7", j < c, 10, False, True) for j in range(k)])
        for i, c in enumerate(right) for language in languages
    ]  # fmt: skip
    return EvalResult("sum", k, {"seed": 0}, items, {"recipe": recipe} if recipe else {})


def test_better_on_the_same_questions():
    found = compare(result([0] * 10 + [1] * 10), result([1] * 20))
    assert found.difference.wins == 10 and found.p_value == pytest.approx(2 / 2**10)
    assert found.b - found.a == 0.5 and found.interval.low > 0 and found.test.startswith("McNemar")


def test_a_question_in_two_languages_flips_as_one():
    both = compare(result([0] * 5, languages=("en", "ko")), result([1] * 5, languages=("en", "ko")))
    assert both.difference.questions == 5 and both.p_value == pytest.approx(2 / 2**5)


def test_what_was_asked_differently_is_refused_unless_allowed():
    a, b = (result([1, 0], recipe={"task": "sum", "split": s, "model": s}) for s in ("test", "train"))
    with pytest.raises(UsageError, match="another split: 'test' and 'train'"):
        compare(a, b)
    assert compare(a, b, allow=["split"]).p_value == 1.0
    with pytest.raises(UsageError, match="other questions"):
        compare(result([1, 0]), result([1, 0, 1]))
    with pytest.raises(UsageError, match="another k"):
        compare(result([1, 0]), result([1, 0], k=2))
