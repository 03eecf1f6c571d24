"""Judges that raise, hang or give NaN, and prompts that cannot be used: named, counted, never a silent zero."""

from __future__ import annotations

import re
import time

import pytest
from grpo_kit import REWARDS, TARGET, Reward, rows, run, settings, share_of_target

from doran.base.errors import DataError, DoranError
from doran.engine.request import Completion
from doran.tasks.rewards import RewardFailed
from doran.train.judging import Late, score, time_limit
from doran.train.rollout import draw_from
from doran.train.samples import Sample


def samples(*firsts: int) -> list[Sample]:
    return [
        Sample(i, 0, [2], Completion([first, 1], [-0.1, -0.1], "stop"), str(first)) for i, first in enumerate(firsts)
    ]


def judge_that_fails_on(bad: int, failure) -> list[Reward]:
    def fn(items: list, texts: list[str], completions: list[Completion]) -> list[float]:
        return [failure() if c.token_ids[0] == bad else float(c.token_ids[0] == TARGET) for c in completions]

    return [Reward("fragile", 1.0, fn)]


def explode() -> float:
    raise ValueError("cannot parse")


def hang() -> float:
    try:
        time.sleep(30)
    except Exception:  # a judge that swallows what it can
        return 0.0
    return 0.0


@pytest.mark.parametrize(
    ("failure", "words"),
    [(explode, "ValueError: cannot parse"), (hang, "no result within"), (lambda: float("nan"), "nan")],
)
def test_a_failing_judge_stops_the_run_or_is_left_out_and_named(failure, words: str) -> None:
    rewards = judge_that_fails_on(9, failure)
    with pytest.raises(DoranError, match=words):
        score(samples(7, 9, 3, 3), rewards, settings(group_size=4, reward_timeout_s=0.4))
    batch = samples(7, 9, 3, 3)
    table = score(batch, rewards, settings(group_size=4, reward_timeout_s=0.4, on_fault="drop"))
    assert "fragile" in (batch[1].fault or "") and words in (batch[1].fault or "")
    assert [x.fault for x in batch if x is not batch[1]] == [None] * 3
    assert batch[1].advantage == 0.0 and batch[1].rewards == {}
    assert table[0].tolist() == pytest.approx([1.0, 1 / 3, 0.0, 0.0])  # the mean of the others, not a zero
    assert batch[0].advantage > 0 > batch[2].advantage


def test_a_regular_expression_that_never_ends_is_interrupted() -> None:
    with pytest.raises(Late), time_limit(0.3):
        re.match(r"(a+)+$", "a" * 40 + "b")


def test_most_of_a_batch_failing_ends_the_run_even_when_faults_are_dropped() -> None:
    with pytest.raises(DoranError, match="3 of 4 completions could not be judged"):
        score(samples(9, 9, 9, 3), judge_that_fails_on(9, explode), settings(group_size=4, on_fault="drop"))


def test_a_judge_that_hangs_on_many_is_no_longer_asked() -> None:
    began = time.monotonic()
    rewards = [*judge_that_fails_on(9, hang)]
    batch = samples(*[9] * 16, *[3] * 24)
    with pytest.raises(DoranError, match="could not be judged"):
        score(batch, rewards, settings(group_size=20, reward_timeout_s=0.4, on_fault="drop"))
    assert "it hung 8 times" in (batch[20].fault or "") and time.monotonic() - began < 10


def test_faults_are_counted_and_the_run_goes_on(make_model, tmp_path) -> None:
    flaky = judge_that_fails_on(9, explode)
    run(make_model(), tmp_path, flaky, steps=3, on_fault="drop")
    seen = rows(tmp_path)
    assert sum(row["faults/completions"] for row in seen) > 0
    assert all(row["completions/count"] == 24 and row["faults/prompts"] == 0 for row in seen)


@pytest.mark.parametrize(
    ("prompt", "words"), [([], "is empty"), ([2] * 64, "has 64 tokens, but the model's window is 64")]
)
def test_prompts_that_cannot_be_used_are_named_or_replaced_and_counted(make_model, tmp_path, prompt, words) -> None:
    from doran.train.rollout import Dialect

    dialect = Dialect(lambda item: prompt if item == 5 else [2, item], lambda ids: " ".join(map(str, ids)), (1,))
    draw = draw_from([3, 4, 5])
    with pytest.raises(DataError, match=words):
        run(make_model(), tmp_path / "stop", dialect=dialect, draw=draw)
    run(make_model(), tmp_path / "drop", dialect=dialect, draw=draw, on_fault="drop", steps=2)
    assert sum(row["faults/prompts"] for row in rows(tmp_path / "drop")) > 0
    with pytest.raises(DataError, match="empty or too long"):
        run(make_model(), tmp_path / "all", dialect=dialect, draw=draw_from([5]), on_fault="drop", steps=2)


def test_the_plain_path_asks_the_judge_once(make_model) -> None:
    calls = []

    def counting(*args: list) -> list[float]:
        calls.append(len(args[0]))
        return share_of_target(*args)

    batch = samples(7, 9, 3, 3)
    score(batch, [Reward("target", 1.0, counting)], settings(group_size=4))
    assert calls == [4] and REWARDS[0].name == "target"


def test_a_part_that_knows_its_culprits_is_not_asked_twice() -> None:
    calls = []

    def fn(items: list, texts: list[str], completions: list[Completion]) -> list[float]:
        calls.append(len(items))
        raise RewardFailed("judge", [1.0, None, 0.0, 0.0], [None, "http 500", None, None])

    rewards = [Reward("judge", 1.0, fn)]
    batch = samples(7, 9, 3, 3)
    score(batch, rewards, settings(group_size=4, on_fault="drop"))
    assert calls == [4] and batch[1].fault == "reward 'judge': http 500" and batch[0].rewards == {"judge": 1.0}
    with pytest.raises(DoranError, match="1 of 4 completions could not be judged, the first: http 500"):
        score(samples(7, 9, 3, 3), rewards, settings(group_size=4))
