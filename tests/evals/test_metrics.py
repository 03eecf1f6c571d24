"""Metrics against published numbers, textbook formulas and slow simulations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doran.evals import metrics as m


def outcome(answer: str | None = "7", correct: bool = True, length: int = 10, **more) -> m.Outcome:
    return m.Outcome(answer, correct, length, more.pop("truncated", False), more.pop("well_formed", True), **more)


def test_pass_at_8_with_10_of_64_correct_is_the_published_figure():
    assert m.pass_at_k(64, 10, 8) == pytest.approx(0.765, abs=5e-4)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_equals_counting_every_subset(n: int, data: st.DataObject):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([i < c for i in range(n)], k))
    assert m.pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_1_is_the_mean():
    assert m.pass_at_k(16, 4, 1) == pytest.approx(0.25)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_pass_at_k_refuses_impossible_counts(n: int, c: int, k: int):
    with pytest.raises(ValueError, match="pass@"):
        m.pass_at_k(n, c, k)


def test_vote_ties_go_to_the_answer_seen_first():
    assert m.majority_vote(["b", "a", "a", "b"]) == "b"
    assert m.majority_vote([]) is None


def test_a_question_won_by_no_answer_is_wrong():
    assert not m.cons_at_k([None, None, "7"], [False, False, True])
    assert m.cons_at_k([None, "7", "7"], [False, True, True])
    assert not m.cons_at_k(["8", "8", "7"], [False, False, True])


def test_wilson_matches_the_textbook_and_holds_at_the_edges():
    interval = m.wilson(0.5, 100)
    assert (interval.low, interval.high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    perfect = m.wilson(1.0, 30)
    assert perfect.high == 1.0 and perfect.low == pytest.approx(30 / (30 + 1.96**2), abs=1e-3)
    assert m.wilson(0.0, 30).low == 0.0


def test_share_interval_counts_questions_when_samples_agree_and_samples_when_they_do_not():
    copies = m.share_interval([1.0] * 30 + [0.0] * 70, k=16)  # 16 copies of 100 trials
    assert (copies.low, copies.high) == pytest.approx((m.wilson(0.3, 100).low, m.wilson(0.3, 100).high))
    spread = m.share_interval([0.5] * 100, k=16)  # as even as independent coins can be
    assert spread == m.wilson(0.5, 1600)
    assert m.share_interval([1.0] * 100, k=16) == m.wilson(1.0, 100)
    assert m.share_interval([]) == m.NOTHING


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40))
def test_share_interval_always_holds_its_value(shares: list[float]):
    interval = m.share_interval(shares, k=4)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_share_interval_covers_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        difficulty_Q = rng.beta(1, 2, 60)  # mean 1/3: questions differ, so samples are clustered
        interval = m.share_interval(list(rng.binomial(8, difficulty_Q) / 8), k=8)
        hits += interval.low <= 1 / 3 <= interval.high
    assert 0.92 <= hits / 400 <= 0.98


def test_share_interval_refuses_lengths():
    with pytest.raises(ValueError, match="shares"):
        m.share_interval([3.0])


def test_bootstrap_is_seeded_and_close_to_the_normal_interval():
    values = list(np.random.default_rng(1).normal(100, 10, 200))
    first, again = m.bootstrap(values, seed=3), m.bootstrap(values, seed=3)
    assert first == again != m.bootstrap(values, seed=4)
    assert first.high - first.low == pytest.approx(2 * 1.96 * np.std(values) / math.sqrt(200), rel=0.1)


def test_paired_difference_is_narrower_than_the_unpaired_one_and_finds_a_small_gain():
    keys = [f"q{i}" for i in range(200)]
    a = {key: float(i % 2) for i, key in enumerate(keys)}
    b = dict(a) | {key: 1.0 for key in keys[:40]}
    result = m.paired_difference(a, b)
    assert result.certain and result.interval.value == pytest.approx(0.1)
    assert (result.questions, result.wins, result.losses) == (200, 20, 0)
    assert m.share_interval(list(b.values())).low < m.share_interval(list(a.values())).high  # unpaired sees nothing


def test_paired_difference_without_any_difference_is_not_certainty():
    same = {f"q{i}": 1.0 for i in range(20)}
    result = m.paired_difference(same, same)
    assert result.interval.value == 0 and result.interval.low < 0 < result.interval.high and not result.certain
    assert m.paired_difference(same, {"other": 1.0}).interval == m.NOTHING


def test_paired_difference_uses_only_shared_questions():
    assert m.paired_difference({"a": 0.0, "b": 0.0}, {"b": 1.0, "c": 0.0}).interval.value == 1.0


def test_truncated_completions_count_as_no_answer():
    summary = m.summarize([("en", [outcome(), outcome(truncated=True)])])
    assert summary["pass@1"].value == 0.5 and summary["truncated"].value == 0.5 and summary["format"].value == 0.5
    votes = m.summarize([("en", [outcome(truncated=True), outcome(truncated=True), outcome()])])
    assert votes["cons@3"].value == 0.0


def test_summary_has_every_power_of_two_and_k_itself():
    summary = m.summarize([("en", [outcome()] * 6)] * 3)
    assert [key for key in summary if key.startswith("pass@")] == ["pass@1", "pass@2", "pass@4", "pass@6"]
    assert "cons@6" in summary and summary["mean_length"].value == 10
    assert "cons@1" not in m.summarize([("en", [outcome()])])


def test_language_fidelity_is_strict_for_thoughts_and_skips_wordless_answers():
    samples = [
        outcome(thought_language="ko", answer_language=None),
        outcome(thought_language="en", answer_language="ko"),
        outcome(thought_language=None, answer_language="en"),
        outcome(thought_language="ko", answer_language="ko"),
    ]
    summary = m.summarize([("ko", samples)])
    assert summary["thought_language"].value == 0.5 and summary["answer_language"].value == pytest.approx(2 / 3)
    assert m.summarize([("ko", samples[:1])])["answer_language"] == m.NOTHING


def test_summary_needs_equal_sample_counts():
    with pytest.raises(ValueError, match="same number"):
        m.summarize([("en", [outcome()]), ("en", [outcome()] * 2)])
    assert m.summarize([]) == {}
