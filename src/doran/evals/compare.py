"""Is B better than A? A paired test on the same questions, and the refusal to compare what was asked differently.

The test is exact: under "no difference" each question's difference d_i = b_i - a_i could as well have been -d_i. The
chance that the flipped sum is at least as far from 0 as the observed one is counted, not simulated; differences are
whole numbers of correct replies, so the distribution of the sum is a product of small polynomials. With one reply a
question this is McNemar's exact test. Questions in two languages count as one (both flip together).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from doran.base.errors import UsageError
from doran.evals.metrics import Interval, PairedDifference, bootstrap, paired_difference
from doran.evals.run import EvalResult, ItemResult

MODEL_SIDE = ("model", "engine", "style", "endpoint")
"""Parts of a recipe that may differ: who answered. All others say what was asked, and how."""


@dataclass(frozen=True)
class Comparison:
    """B against A. `p_value`: exact, two-sided. `interval`: of the mean difference, bootstrap over questions."""

    a: float
    b: float
    difference: PairedDifference
    interval: Interval
    p_value: float
    tokens: Interval
    test: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "a": self.a, "b": self.b, "difference": self.difference.interval.to_dict(),
            "bootstrap": self.interval.to_dict(), "p_value": self.p_value, "test": self.test,
            "questions": self.difference.questions, "wins": self.difference.wins, "losses": self.difference.losses,
            "tokens_difference": self.tokens.to_dict(),
        }  # fmt: skip


def sign_flip_p(differences: Sequence[int]) -> float:
    """Two-sided p-value of the sum of whole differences under independent sign flips, by exact counting."""
    sizes = [abs(d) for d in differences if d]
    if not sizes:
        return 1.0
    unit = math.gcd(*sizes)
    sizes = [size // unit for size in sizes]
    total, reach = abs(sum(differences)) // unit, sum(sizes)
    chances = np.zeros(2 * reach + 1)
    chances[reach] = 1.0
    for size in sizes:
        chances = 0.5 * (np.roll(chances, size) + np.roll(chances, -size))  # the edges stay 0 until the last step
    sums = np.abs(np.arange(-reach, reach + 1))
    return float(min(1.0, chances[sums >= total].sum()))


def compare(a: EvalResult, b: EvalResult, allow: Sequence[str] = ()) -> Comparison:
    """B minus A. UsageError: other questions, settings or k, unless the key is in `allow`."""
    check_same(a, b, allow)
    left, right = by_question(a), by_question(b)
    keys = sorted(left.keys() & right.keys())
    if not keys:
        raise UsageError("the two evaluations share no question", hint="ask both the same: the same --task and --seed")
    shares = [{key: correct(side[key]) / (len(side[key]) * k) for key in keys}
              for side, k in ((left, a.k), (right, b.k))]  # fmt: skip
    whole = [correct(right[key]) * a.k - correct(left[key]) * b.k for key in keys]
    gains = [shares[1][key] - shares[0][key] for key in keys]
    lengths = [mean_length(right[key]) - mean_length(left[key]) for key in keys]
    single = a.k == b.k == 1 and all(len(left[key]) == 1 for key in keys)
    return Comparison(
        a=sum(shares[0].values()) / len(keys),
        b=sum(shares[1].values()) / len(keys),
        difference=paired_difference(shares[0], shares[1]),
        interval=bootstrap(gains),
        p_value=sign_flip_p(whole),
        tokens=bootstrap(lengths),
        test="McNemar, exact" if single else "sign flips of questions, exact",
    )


def by_question(result: EvalResult) -> dict[str, list[ItemResult]]:
    """The items of each question, in the order of their languages."""
    out: dict[str, list[ItemResult]] = {}
    for item in sorted(result.items, key=lambda item: item.language):
        out.setdefault(item.key, []).append(item)
    return out


def correct(items: Sequence[ItemResult]) -> int:
    """Correct replies to one question."""
    return sum(item.num_correct for item in items)


def mean_length(items: Sequence[ItemResult]) -> float:
    """Mean tokens of the replies to one question."""
    lengths = [o.length for item in items for o in item.outcomes]
    return sum(lengths) / len(lengths)


def asked_of(result: EvalResult) -> dict[str, Any]:
    """What must be equal: the recipe without the model's side, or what an old file knows of it."""
    recipe = result.facts.get("recipe")
    if recipe:
        return {key: value for key, value in recipe.items() if key not in MODEL_SIDE}
    sampling = {k: v for k, v in result.sampling.items() if k != "stop_token_ids"}  # the tokenizer's business
    questions = sorted((item.key, item.language) for item in result.items)
    return {"task": result.task, "k": result.k, "sampling": sampling, "questions": questions}


def check_same(a: EvalResult, b: EvalResult, allow: Sequence[str] = ()) -> None:
    """UsageError naming the first thing that was asked differently."""
    if bool(a.facts.get("recipe")) != bool(b.facts.get("recipe")):  # a recipe run keeps less: compare what both say
        a, b = (EvalResult(r.task, r.k, r.sampling, r.items) for r in (a, b))
    left, right = asked_of(a), asked_of(b)
    for key in ("task", "n", "k", *sorted(left.keys() | right.keys())):
        if left.get(key) != right.get(key) and key not in allow:
            if key == "questions":
                what = "other questions"
            else:
                what = f"another {key}: {left.get(key)!r} and {right.get(key)!r}"
            raise UsageError(
                f"the two evaluations had {what}", hint=f"run both with the same settings, or add --allow {key}"
            )
