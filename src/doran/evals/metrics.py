"""Metrics of repeated sampling, and how sure one may be of them. Pure functions; no model, no files, no torch.

What is sampled: Q questions, k completions each. Completions of one question are alike, so the question and not the
completion is the unit that every interval here counts (a cluster). Treating Q*k completions as independent would
print intervals up to sqrt(k) times too narrow.

Rules that the numbers depend on:
- A truncated completion (finish_reason "length") has no answer, even if one was readable before the cut.
- cons@k: every completion votes once, "no answer" (None) is a vote like any other, a tie goes to the answer seen first,
  and a question won by "no answer" is wrong.
- Language of a thought: a thought without words of either language does not speak the question's language.
  Language of an answer: an answer without words ("(3+4)*5") has none to be wrong about and is left out.
- A question that was asked in two languages is one cluster, not two.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from doran.base.rng import numpy_rng

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval at `level`. A value of None means that there was nothing to measure."""

    value: float | None
    low: float | None = None
    high: float | None = None
    level: float = LEVEL

    def to_dict(self) -> dict[str, float | None]:
        """The three numbers, as the JSON files and the report's tables hold them."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "-"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


NOTHING = Interval(None)


# ---- one question ----------------------------------------------------------------------------------------------


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that k of the n samples, drawn without replacement, hold a correct one: 1 - C(n-c, k) / C(n, k).

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, eq. 1). k = 1 gives c/n, the mean.
    """
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs 0 <= correct <= samples and k <= samples, got {num_correct} of {num_samples}")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def majority_vote(answers: Sequence[str | None]) -> str | None:
    """The most frequent answer; None ("no answer") is a candidate too. A tie goes to the answer seen first."""
    counts = Counter(answers)  # keeps the order of first appearance, and max() keeps the first of equals
    return max(counts, key=counts.__getitem__, default=None)


def cons_at_k(answers: Sequence[str | None], correct: Sequence[bool]) -> bool:
    """Whether the majority answer is correct. `correct[i]` belongs to `answers[i]`; equal answers share a verdict."""
    winner = majority_vote(answers)
    return winner is not None and correct[list(answers).index(winner)]


# ---- intervals over questions ----------------------------------------------------------------------------------


def z_score(level: float) -> float:
    """Two-sided normal quantile: 1.96 for 0.95."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def wilson(share: float, n: float, level: float = LEVEL) -> Interval:
    """Wilson's score interval for a share seen in n independent trials. Sane at 0 and 1, unlike share +- z*SE."""
    z = z_score(level)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and 1 the formula meets the value exactly; min and max take away the last rounding error.
    return Interval(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)), level)


def share_interval(shares_Q: Sequence[float], k: int = 1, level: float = LEVEL) -> Interval:
    """Mean of per-question shares, each of k samples in [0, 1], with a cluster-robust interval.

    The cluster-robust variance of the mean is var(shares)/Q. Wilson's interval is taken at the number of independent
    trials that would have this variance, n = p(1-p) Q / var(shares): Q if a question's samples all agree (k copies
    of one trial), Q*k if they are independent. In the middle that is p +- z*SE; at 0 and 1, where the variance says
    nothing, n falls back to Q, the cautious end.
    """
    if not len(shares_Q):
        return NOTHING
    values_Q = np.asarray(shares_Q, dtype=np.float64)
    if values_Q.min() < 0 or values_Q.max() > 1:
        raise ValueError("share_interval takes shares in [0, 1]; use mean_interval for other quantities")
    mean, variance, questions = float(values_Q.mean()), float(values_Q.var()), len(values_Q)
    if mean in (0.0, 1.0):
        return wilson(mean, questions, level)
    trials = questions * k if variance == 0 else mean * (1 - mean) * questions / variance
    return wilson(mean, min(max(trials, questions), questions * k), level)


def bootstrap(
    values_Q: Sequence[float],
    statistic: Callable[[np.ndarray], float] = lambda sample: float(sample.mean()),
    *,
    seed: int = 0,
    rounds: int = 2000,
    level: float = LEVEL,
) -> Interval:
    """Percentile bootstrap over questions, seeded: draw Q questions with replacement, `rounds` times."""
    if not len(values_Q):
        return NOTHING
    array_Q, rng = np.asarray(values_Q, dtype=np.float64), numpy_rng("bootstrap", seed)
    draws = [statistic(array_Q[rng.integers(0, len(array_Q), len(array_Q))]) for _ in range(rounds)]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(statistic(array_Q), float(low), float(high), level)


@dataclass(frozen=True)
class PairedDifference:
    """b minus a on the questions both have. `wins`: questions where b is better, `losses`: where a is."""

    interval: Interval
    questions: int
    wins: int
    losses: int

    @property
    def certain(self) -> bool:
        """Whether the interval leaves zero out."""
        low, high = self.interval.low, self.interval.high
        return low is not None and high is not None and (low > 0 or high < 0)


def paired_difference(a: Mapping[str, float], b: Mapping[str, float], level: float = LEVEL) -> PairedDifference:
    """Mean of b - a over the question keys that both hold, per-question shares in [0, 1].

    Pairing takes the questions' own difficulty out of the comparison. The interval is normal, with half a made-up
    question in each of the four cells right/wrong x right/wrong (Agresti & Min 2005), so that "never differed" does
    not read as certainty.
    """
    keys = sorted(a.keys() & b.keys())
    if not keys:
        return PairedDifference(NOTHING, 0, 0, 0)
    diffs_Q = np.array([b[key] - a[key] for key in keys])
    n = len(keys) + 2
    centre = diffs_Q.sum() / n
    variance = (float((diffs_Q**2).sum()) + 1.0) / n - centre**2  # the made-up cells hold 0.5 * (+1)^2 + 0.5 * (-1)^2
    half = z_score(level) * math.sqrt(max(variance, 0.0) / n)
    interval = Interval(float(diffs_Q.mean()), max(-1.0, float(centre - half)), min(1.0, float(centre + half)), level)
    return PairedDifference(interval, len(keys), int((diffs_Q > 0).sum()), int((diffs_Q < 0).sum()))


# ---- a whole result set ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What one completion came to, before the rules above. `length` counts generated tokens, the stop included."""

    answer: str | None
    correct: bool
    length: int
    truncated: bool
    well_formed: bool
    thought_language: str | None = None
    answer_language: str | None = None
    reward: float = 0.0
    leaks: int = 0  # Hanja, Kana and Bopomofo letters in thought and answer

    def ruled(self) -> Outcome:
        """The same outcome with truncation counted as no answer, no format and no reward."""
        if not self.truncated:
            return self
        return Outcome(None, False, self.length, True, False, self.thought_language, None, 0.0, self.leaks)


def summarize(
    groups: Sequence[tuple[str, Sequence[Outcome]]], *, seed: int = 0, clusters: Sequence[str] | None = None
) -> dict[str, Interval]:
    """Every metric of one result set. `groups`: (the question's language, its k outcomes) per question.

    Keys: pass@1 (which is avg@k), pass@2 .. pass@k (powers of two, and k), cons@k, reward, mean_length, truncated,
    format, thought_language, answer_language, leak. All questions have the same k. `clusters` names the question
    behind each group; groups of one name count as one question where every name has equally many.
    """
    if not groups:
        return {}
    k = len(groups[0][1])
    if k < 1 or any(len(outcomes) != k for _, outcomes in groups):
        raise ValueError("every question needs the same number of samples, at least one")
    ruled = [(language, [outcome.ruled() for outcome in outcomes]) for language, outcomes in groups]
    correct_Q = [sum(o.correct for o in outcomes) for _, outcomes in ruled]

    def merged(values_Q: Sequence[float], samples: int) -> Interval:
        together, size = by_cluster(values_Q, clusters)
        return share_interval(together, samples * size)

    def share(of: Callable[[Outcome], bool]) -> Interval:
        return merged([sum(map(of, outcomes)) / k for _, outcomes in ruled], k)

    def mean(of: Callable[[Outcome], float]) -> Interval:
        return bootstrap(by_cluster([sum(map(of, out)) / k for _, out in ruled], clusters)[0], seed=seed)

    metrics = {"pass@1": share(lambda o: o.correct)}
    for draws in sorted({2**i for i in range(1, k.bit_length())} | {k} - {1}):
        # Not the bootstrap: where nothing (or all) was right, every resample says the same and proves nothing
        metrics[f"pass@{draws}"] = merged([pass_at_k(k, c, draws) for c in correct_Q], k)
    if k > 1:
        votes_Q = [cons_at_k([o.answer for o in out], [o.correct for o in out]) for _, out in ruled]
        metrics[f"cons@{k}"] = merged([float(vote) for vote in votes_Q], 1)
    metrics["reward"] = mean(lambda o: o.reward)
    metrics["mean_length"] = mean(lambda o: o.length)
    metrics["truncated"] = share(lambda o: o.truncated)
    metrics["format"] = share(lambda o: o.well_formed)
    thoughts_Q = [sum(o.thought_language == language for o in out) / k for language, out in ruled]
    metrics["thought_language"] = merged(thoughts_Q, k)
    metrics["answer_language"] = _answer_language(ruled, k)
    return metrics | {"leak": share(lambda o: o.leaks > 0)}


def by_cluster(values: Sequence[float], clusters: Sequence[str] | None) -> tuple[list[float], int]:
    """(one value a cluster, members of each): the means of equally large clusters; without those, as it was."""
    groups: dict[str, list[float]] = {}
    for name, value in zip(clusters or (), values, strict=bool(clusters)):
        groups.setdefault(name, []).append(value)
    sizes = {len(group) for group in groups.values()}
    if len(sizes) != 1:
        return list(values), 1
    return [sum(group) / len(group) for group in groups.values()], sizes.pop()


def _answer_language(ruled: Sequence[tuple[str, Sequence[Outcome]]], k: int) -> Interval:
    """Language fidelity of the answers that have words."""
    answers = [
        sum(o.answer_language == language for o in worded) / len(worded)
        for language, out in ruled
        if (worded := [o for o in out if o.answer_language is not None])
    ]
    return share_interval(answers, k)
