"""Reward functions called with care: what raises, hangs, miscounts or gives NaN is named and never turned into a zero.

on_fault=stop (the default) ends the run with one line. on_fault=drop asks again, one completion at a time, to find the
culprits; these are left out of their group and of the update, and counted. Not here: any reward function.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from doran.base.errors import DoranError
from doran.parallel.world import SOLO, World
from doran.tasks.rewards import RewardFailed
from doran.train.advantage import advantages
from doran.train.grpo_settings import GrpoSettings
from doran.train.losses import overlong_penalty
from doran.train.samples import Reward, Sample, item_key

MOST_HANGS = 8
"""Completions a reward function may hang on in one step before it is no longer asked."""


class Late(BaseException):
    """The time is up. No Exception, so that a judge's own `except Exception` does not swallow it."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raises Late inside after `seconds`. A Unix timer: in the main thread alone, elsewhere there is no limit."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise Late(f"no result within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def score(
    samples: list[Sample],
    rewards: Sequence[Reward],
    s: GrpoSettings,
    group_size: int | None = None,
    world: World = SOLO,
) -> Tensor:
    """Fill in rewards and advantages; returns the total rewards (P, G). DoranError if a reward function misbehaves.

    Of several processes each judges its share of the groups.
    A sample with a fault stands in the table with the mean of its group: its advantage is 0 and it is not learnt from.
    """
    group_size = group_size or s.group_size
    for part in rewards:
        for sample, value in zip(samples, _judge_together(part, samples, s, group_size, world), strict=True):
            if value is not None:
                sample.rewards[part.name] = value
                sample.reward += part.weight * value
    if s.overlong_cache:
        for sample in samples:
            sample.rewards["overlong"] = overlong_penalty(sample.length, s.max_new_tokens, s.overlong_cache)
            sample.reward += sample.rewards["overlong"]
    _refuse_if_most_failed(samples)
    return set_advantages(samples, rewards, s, group_size)


def set_advantages(samples: list[Sample], rewards: Sequence[Reward], s: GrpoSettings, group_size: int) -> Tensor:
    """Advantages of judged samples; returns the total rewards (P, G)."""
    rewards_PG = _table(samples, [x.reward for x in samples], group_size)
    parts = {
        part.name: (part.weight, _table(samples, [x.rewards.get(part.name, 0.0) for x in samples], group_size))
        for part in rewards
        if s.advantage == "gdpo"
    }
    values_PG = advantages(rewards_PG, s.advantage, s.scale_rewards, parts)
    for sample, advantage in zip(samples, values_PG.flatten().tolist(), strict=True):
        sample.advantage = 0.0 if sample.fault else advantage
    return rewards_PG


def _judge_together(
    part: Reward, samples: list[Sample], s: GrpoSettings, group_size: int, world: World
) -> list[float | None]:
    """`judge`, the groups shared out."""
    if world.size == 1:
        return judge(part, samples, s)

    def work(own: range) -> list[tuple[float | None, str | None]]:
        mine = samples[own.start * group_size : own.stop * group_size]
        values = judge(part, mine, s) if mine else []
        return [(value, x.fault) for value, x in zip(values, mine, strict=True)]

    values = []
    for sample, (value, fault) in zip(samples, world.spread(len(samples) // group_size, work), strict=True):
        sample.fault = fault
        values.append(value)
    return values


def judge(part: Reward, samples: list[Sample], s: GrpoSettings) -> list[float | None]:
    """The part's value of each sample; None, and `sample.fault`, where there is none (on_fault=drop)."""
    try:
        values = _ask(part, samples, s.reward_timeout_s)
    except (Exception, Late) as error:
        if s.on_fault == "stop":
            if isinstance(error, DoranError):
                raise
            raise DoranError(
                f"reward '{part.name}' failed: {_described(error)}",
                hint="mend the reward function, or set on_fault=drop to leave out what it cannot judge",
            ) from error
        if isinstance(error, RewardFailed) and len(error.values) == len(samples):  # it knows its culprits
            values = error.values
            for sample, reason in zip(samples, error.reasons, strict=True):
                if reason:
                    sample.fault = sample.fault or f"reward '{part.name}': {reason}"
        else:
            values = _one_at_a_time(part, samples, s.reward_timeout_s)
    for sample, value in zip(samples, values, strict=True):
        if value is not None and not math.isfinite(value):
            sample.rewards[part.name] = value
            if s.on_fault == "stop":
                raise DoranError(
                    f"a reward is not a number: {sample.rewards} for {item_key(sample.item)[:80]}",
                    hint="mend the reward function that gave it, or set on_fault=drop to leave such completions out",
                )
            del sample.rewards[part.name]
            sample.fault = sample.fault or f"reward '{part.name}' gave {value}"
    return [None if value is None or not math.isfinite(value) else value for value in values]


def _ask(part: Reward, samples: list[Sample], seconds: float | None) -> list[float | None]:
    with time_limit(seconds):
        values: list[Any] = list(
            part.fn([x.item for x in samples], [x.text for x in samples], [x.completion for x in samples])
        )
        if len(values) != len(samples):
            raise DoranError(f"reward '{part.name}' gave {len(values)} values for {len(samples)} completions")
        return [float(value) for value in values]


def _one_at_a_time(part: Reward, samples: list[Sample], seconds: float | None) -> list[float | None]:
    values: list[float | None] = []
    hangs = 0
    for sample in samples:
        value: float | None = None
        if hangs < MOST_HANGS:
            try:
                value = _ask(part, [sample], seconds and seconds / MOST_HANGS)[0]
            except (Exception, Late) as error:
                hangs += isinstance(error, Late)
                sample.fault = sample.fault or f"reward '{part.name}': {_described(error)}"
        else:
            sample.fault = sample.fault or f"reward '{part.name}': not asked, it hung {hangs} times in this step"
        values.append(value)
    return values


def _refuse_if_most_failed(samples: Sequence[Sample]) -> None:
    faults = [x.fault for x in samples if x.fault]
    if 2 * len(faults) > len(samples):
        raise DoranError(
            f"{len(faults)} of {len(samples)} completions could not be judged, the first because of {faults[0]}",
            hint="mend the reward function or the environment: with so few left nothing can be learnt",
        )


def _table(samples: Sequence[Sample], values: Sequence[float], group_size: int) -> Tensor:
    """(P, G) float64; a faulty sample has its group's mean over the others, 0 where nobody is left."""
    table_PG = torch.tensor(values, dtype=torch.float64).view(-1, group_size)
    if any(x.fault for x in samples):
        good_PG = torch.tensor([x.fault is None for x in samples]).view(-1, group_size)
        means_P1 = (table_PG * good_PG).sum(1, keepdim=True) / good_PG.sum(1, keepdim=True).clamp(min=1)
        table_PG = torch.where(good_PG, table_PG, means_P1)
    return table_PG


def _described(error: BaseException) -> str:
    return str(error) if isinstance(error, Late | DoranError) else f"{type(error).__name__}: {error}"
