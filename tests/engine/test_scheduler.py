"""The scheduler's invariants, without a model: dense slots, whole groups, every request once, the budget kept."""

from __future__ import annotations

import random

import pytest

from doran.base.errors import OutOfMemory
from doran.engine.request import Request, SamplingParams
from doran.engine.scheduler import Move, Scheduler


def group(first: int, length: int, n: int = 1, new: int = 4) -> list[Request]:
    prompt = tuple(range(first, first + length))
    return [Request(first + j, j, prompt, SamplingParams(new)) for j in range(n)]


def roomy(rows: int, length: int) -> bool:
    return True


def test_longest_prompts_are_admitted_first_and_groups_stay_together() -> None:
    scheduler = Scheduler(group(0, 2, n=2) + group(10, 5, n=2) + group(20, 3, n=2), max_batch=5, fits=roomy)
    assert [len(g.prompt_ids) for g in scheduler.admit()] == [5, 3]
    assert [r.index for r in scheduler.running] == [10, 11, 20, 21]


def test_a_group_larger_than_the_batch_is_split_over_waves() -> None:
    scheduler = Scheduler(group(0, 3, n=5), max_batch=2, fits=roomy)
    waves = []
    while scheduler.busy:
        waves.append([r.index for g in scheduler.admit() for r in g.requests])
        scheduler.finish(list(range(len(scheduler.running))))
    assert waves == [[0, 1], [2, 3], [4]]


def test_freed_slots_are_filled_from_the_end() -> None:
    scheduler = Scheduler([r for i in range(5) for r in group(10 * i, 3)], max_batch=5, fits=roomy)
    scheduler.admit()
    assert scheduler.finish([0, 4, 2]) == [Move(3, 0)]
    assert [r.index for r in scheduler.running] == [30, 10]


def test_small_waves_wait_until_an_eighth_of_the_slots_is_free() -> None:
    scheduler = Scheduler([r for i in range(64) for r in group(10 * i, 3)], max_batch=32, fits=roomy)
    assert len(scheduler.admit()) == 32
    scheduler.finish([0, 1, 2])
    assert scheduler.admit() == [] and len(scheduler.waiting) == 32
    scheduler.finish([0])
    assert len(scheduler.admit()) == 4


def test_admission_waits_for_memory() -> None:
    scheduler = Scheduler(
        group(0, 5) + group(10, 5) + group(20, 5), max_batch=8, fits=lambda rows, length: rows * length <= 16
    )
    assert len(scheduler.admit()) == 2 and scheduler.admit() == []
    scheduler.finish([0])
    assert [r.index for g in scheduler.admit() for r in g.requests] == [20]


def test_a_request_that_can_never_fit_is_out_of_memory_with_a_mend() -> None:
    with pytest.raises(OutOfMemory, match="max_new_tokens"):
        Scheduler(group(0, 5), max_batch=8, fits=lambda rows, length: False).admit()


@pytest.mark.parametrize("seed", range(5))
def test_every_request_runs_once_in_dense_slots_within_the_limits(seed: int) -> None:
    rng = random.Random(seed)
    requests = [r for i in range(20) for r in group(100 * i, rng.randint(1, 9), n=rng.randint(1, 12))]
    within = lambda rows, length: rows * length <= 80  # noqa: E731
    scheduler = Scheduler(requests, max_batch=9, fits=within)
    slots: list[Request] = []  # what a runner would hold
    done = []
    while scheduler.busy:
        slots += [r for g in scheduler.admit() for r in g.requests]
        assert slots == scheduler.running and 0 < len(slots) <= 9
        assert within(len(slots), max(r.max_length for r in slots))
        finished = rng.sample(range(len(slots)), rng.randint(1, len(slots)))
        done += [slots[s].index for s in finished]
        for move in scheduler.finish(finished):
            slots[move.dst] = slots[move.src]
        del slots[len(scheduler.running) :]
    assert sorted(done) == sorted(r.index for r in requests)
