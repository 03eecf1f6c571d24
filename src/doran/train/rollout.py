"""Rollouts: prompts in, scored groups of completions out; which groups teach. Sampling and judging are next door.

P prompts, G completions of each (a group). Without a memory (prompt book, replay) everything follows from (seed, step).
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from doran.base.errors import DataError
from doran.base.rng import python_rng
from doran.train.advantage import zero_variance
from doran.train.curriculum import PromptBook, Replay
from doran.train.judging import score, set_advantages
from doran.train.samples import Dialect, Draw, Environment, Reward, RewardFn, Rollout, Sample, groups_of
from doran.train.sampling import Sampler

__all__ = [
    "Dialect",
    "Draw",
    "Environment",
    "Reward",
    "RewardFn",
    "Rollout",
    "Sample",
    "Source",
    "draw_from",
    "roll_out",
]

DRAWS_PER_PROMPT = 4  # tries to replace prompts that cannot be used


@dataclass(frozen=True)
class Source:
    """Where a step's rollouts come from and who judges them; `book` and `replay` remember across steps."""

    sampler: Sampler
    draw: Draw
    rewards: Sequence[Reward]
    book: PromptBook | None = None
    replay: Replay | None = None

    def items(self, step: int, attempt: int, n: int) -> tuple[list[Any], int]:
        """(n usable prompts, how many unusable ones were passed over), by name of the step and the attempt."""
        s = self.sampler.settings
        wanted = n * s.choice_candidates if self.book is not None else n
        found: list[Any] = []
        unusable = 0
        for again in range(DRAWS_PER_PROMPT):
            name: tuple[str | int, ...] = ("grpo prompts", s.seed, step, attempt)
            drawn = list(self.draw(python_rng(*name, *([again] if again else [])), wanted - len(found)))
            good = self.sampler.usable(drawn)
            unusable += len(drawn) - len(good)
            found += good
            if len(found) >= wanted:
                break
        if len(found) < n:
            raise DataError(f"{unusable} prompts drawn in step {step + 1} are empty or too long", hint="mend the data")
        return (self.book.choose(found, n) if self.book is not None else found), unusable


def roll_out(source: Source, step: int, ahead: list[Sample] | None = None) -> Rollout:
    """Sample and score `prompts_per_step` groups. Dynamic sampling (DAPO): go on until as many have variance, or until
    `max_refills` more draws are used up. Then fill up from the replay memory.

    `ahead`: the samples of the first attempt, where they were sampled before (async_rollouts).
    """
    s, rollout, tables = source.sampler.settings, Rollout(), []
    for attempt in range(1 + (s.max_refills if s.drop_zero_variance else 0)):
        missing = s.prompts_per_step - len(groups_of(rollout.kept))
        if missing <= 0:
            break
        began = time.perf_counter()
        if s.probe:
            batch, table = _probe(source, rollout, step, attempt, missing)
        else:
            batch = ahead or _sample(source, rollout, step, attempt, missing)
            sampled = time.perf_counter()
            table = score(batch, source.rewards, s, world=source.sampler.world)
            rollout.sample_seconds += sampled - began
            rollout.score_seconds += time.perf_counter() - sampled
            rollout.samples += batch
        tables.append(table)
        dull = zero_variance(table) if s.drop_zero_variance else torch.zeros(len(table), dtype=torch.bool)
        rollout.kept += [x for i, x in enumerate(batch) if not dull[i // s.group_size] and x.fault is None]
    rollout.rewards_PG = torch.cat(tables)
    if source.book is not None:
        source.book.observe(rollout.samples)
    if source.replay is not None:
        lacking = s.prompts_per_step - len(groups_of(rollout.kept))
        rollout.replayed = source.replay.take(lacking, step, source.sampler.dialect, num_groups(rollout))
        source.replay.remember(rollout.kept, step)
    return rollout


def num_groups(rollout: Rollout) -> int:
    """Groups sampled so far: the number of the next one."""
    return len({x.group for x in rollout.samples})


def _sample(source: Source, rollout: Rollout, step: int, attempt: int, n: int) -> list[Sample]:
    items, unusable = source.items(step, attempt, n)
    rollout.unusable_prompts += unusable
    return source.sampler.groups(items, (step, attempt), first_group=num_groups(rollout))


def _probe(source: Source, rollout: Rollout, step: int, attempt: int, missing: int) -> tuple[list[Sample], Tensor]:
    """Begin more groups than needed with a few completions each and complete those that promise to teach something.

    Most mixed first. Where too few are mixed, a quarter of what is missing is filled with groups that failed so far: a
    hard prompt may still have a success to show, an easy one would cost the same and show none.
    """
    s, sampler = source.sampler.settings, source.sampler
    began = time.perf_counter()
    wanted = s.probe_prompts or 2 * s.prompts_per_step
    items, unusable = source.items(step, attempt, max(missing, wanted * missing // s.prompts_per_step))
    first = num_groups(rollout)
    begun = sampler.groups(items, (step, attempt), first, s.probe, "grpo probe")
    rollout.sample_seconds += time.perf_counter() - began
    table_PK = _scored(source, rollout, begun, s.probe)
    spread_P, mean_P = table_PK.var(1, unbiased=False).tolist(), table_PK.mean(1).tolist()
    order = sorted(range(len(items)), key=lambda i: (-spread_P[i], mean_P[i], i))
    mixed = int((~zero_variance(table_PK)).sum())
    chosen = sorted(order[: min(missing, max(mixed, missing // 4, 1))])

    began = time.perf_counter()
    rest = sampler.groups([items[i] for i in chosen], (step, attempt), 0, s.group_size - s.probe, "grpo rest")
    rollout.sample_seconds += time.perf_counter() - began
    _scored(source, rollout, rest, s.group_size - s.probe)
    batch: list[Sample] = []
    for i, more in zip(chosen, groups_of(rest), strict=True):
        for x in more:
            x.group = first + i
        batch += begun[i * s.probe : (i + 1) * s.probe] + more
    for x in begun:
        x.advantage = 0.0
    rollout.unusable_prompts += unusable
    rollout.probed, rollout.mixed = rollout.probed + len(items), rollout.mixed + mixed
    rollout.probe_rewards += mean_P
    rollout.samples += sorted([*begun, *rest], key=lambda x: x.group)
    return batch, set_advantages(batch, source.rewards, s, s.group_size)


def _scored(source: Source, rollout: Rollout, samples: list[Sample], group_size: int) -> Tensor:
    began = time.perf_counter()
    table = score(samples, source.rewards, source.sampler.settings, group_size, source.sampler.world)
    rollout.score_seconds += time.perf_counter() - began
    return table


def draw_from(items: Sequence[Any]) -> Draw:
    """Prompts drawn from a fixed list, without repetition inside one draw where the list is long enough."""

    def draw(rng: random.Random, n: int) -> Sequence[Any]:
        return rng.sample(items, n) if n <= len(items) else rng.choices(items, k=n)

    return draw
