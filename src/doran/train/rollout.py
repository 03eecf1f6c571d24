"""Rollouts: prompts in, scored groups of completions out. Sampling is the engine's, judging the reward functions'.

P prompts, G completions of each (a group). Everything follows from (seed, step): nothing here remembers anything.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from doran.base.errors import DoranError
from doran.base.rng import python_rng, seed_for
from doran.engine.engine import Engine
from doran.engine.request import Completion, SamplingParams
from doran.train.advantage import group_advantages, zero_variance
from doran.train.grpo_settings import GrpoSettings
from doran.train.losses import overlong_penalty

RewardFn = Callable[[list[Any], list[str], list[Completion]], list[float]]
Draw = Callable[[random.Random, int], Sequence[Any]]


@dataclass(frozen=True)
class Reward:
    """One part of the reward: `fn(items, texts, completions)` gives a number per completion, `weight` multiplies it."""

    name: str
    weight: float
    fn: RewardFn


@dataclass(frozen=True)
class Dialect:
    """Between items and ids. `encode(item)`: the prompt's ids; `decode(ids)` keeps special tokens (`</think>`)."""

    encode: Callable[[Any], list[int]]
    decode: Callable[[list[int]], str]
    stop_token_ids: tuple[int, ...]

    def text(self, completion: Completion) -> str:
        """A completion's text, without its stop token."""
        ids = completion.token_ids
        return self.decode(ids[:-1] if completion.finish_reason == "stop" else ids)


@dataclass
class Sample:
    """One completion with all that is known of it."""

    item: Any
    group: int
    prompt_ids: list[int]
    completion: Completion
    text: str
    rewards: dict[str, float] = field(default_factory=dict)  # by part, unweighted
    reward: float = 0.0
    advantage: float = 0.0

    @property
    def truncated(self) -> bool:
        """Did it hit the length limit?"""
        return self.completion.finish_reason == "length"

    @property
    def length(self) -> int:
        """Completion tokens, the stop token included."""
        return len(self.completion.token_ids)


@dataclass
class Rollout:
    """What one step sampled (`samples`, all of it), what of it teaches (`kept`), and where the time went."""

    samples: list[Sample] = field(default_factory=list)
    kept: list[Sample] = field(default_factory=list)
    rewards_PG: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    sample_seconds: float = 0.0
    score_seconds: float = 0.0


def roll_out(
    engine: Engine, dialect: Dialect, draw: Draw, rewards: Sequence[Reward], s: GrpoSettings, step: int
) -> Rollout:
    """Sample and score `prompts_per_step` groups. Dynamic sampling (DAPO): go on until as many have variance, or until
    `max_refills` more draws are used up."""
    rollout, tables = Rollout(), []
    for attempt in range(1 + (s.max_refills if s.drop_zero_variance else 0)):
        missing = s.prompts_per_step - len(rollout.kept) // s.group_size
        if missing <= 0:
            break
        began = time.perf_counter()
        items = list(draw(python_rng("grpo prompts", s.seed, step, attempt), missing))
        batch = sample_groups(
            engine, dialect, items, s, (step, attempt), first_group=len(rollout.samples) // s.group_size
        )
        sampled = time.perf_counter()
        table = score(batch, rewards, s)
        rollout.sample_seconds += sampled - began
        rollout.score_seconds += time.perf_counter() - sampled
        rollout.samples += batch
        tables.append(table)
        dull = zero_variance(table) if s.drop_zero_variance else torch.zeros(len(items), dtype=torch.bool)
        rollout.kept += [x for i, x in enumerate(batch) if not dull[i // s.group_size]]
    rollout.rewards_PG = torch.cat(tables)
    return rollout


def sample_groups(
    engine: Engine, dialect: Dialect, items: list[Any], s: GrpoSettings, when: tuple[int, int], first_group: int = 0
) -> list[Sample]:
    """G completions of each item, group by group. Every prompt has its own seed, so groups draw independently."""
    prompts = [list(dialect.encode(item)) for item in items]
    params = [
        SamplingParams(
            max_new_tokens=s.max_new_tokens,
            temperature=s.temperature,
            top_p=s.top_p,
            seed=seed_for("grpo rollout", s.seed, *when, i),
            stop_token_ids=dialect.stop_token_ids,
        )
        for i in range(len(items))
    ]
    groups = engine.generate(prompts, params, n=s.group_size)
    return [
        Sample(item, first_group + i, prompts[i], completion, dialect.text(completion))
        for i, item in enumerate(items)
        for completion in groups[i]
    ]


def score(samples: list[Sample], rewards: Sequence[Reward], s: GrpoSettings) -> Tensor:
    """Fill in rewards and advantages; returns the total rewards (P, G). DoranError if a reward function misbehaves."""
    items, texts, completions = [x.item for x in samples], [x.text for x in samples], [x.completion for x in samples]
    for part in rewards:
        values = part.fn(items, texts, completions)
        if len(values) != len(samples):
            raise DoranError(f"reward '{part.name}' gave {len(values)} values for {len(samples)} completions")
        for sample, value in zip(samples, values):
            sample.rewards[part.name] = float(value)
            sample.reward += part.weight * float(value)
    if s.overlong_cache:
        for sample in samples:
            sample.rewards["overlong"] = overlong_penalty(sample.length, s.max_new_tokens, s.overlong_cache)
            sample.reward += sample.rewards["overlong"]
    rewards_PG = torch.tensor([x.reward for x in samples], dtype=torch.float64).view(-1, s.group_size)
    if not bool(rewards_PG.isfinite().all()):
        bad = next(x for x in samples if not abs(x.reward) < float("inf"))
        raise DoranError(f"a reward is not a number: {bad.rewards}", hint="mend the reward function that gave it")
    for sample, advantage in zip(samples, group_advantages(rewards_PG, s.scale_rewards).flatten().tolist()):
        sample.advantage = advantage
    return rewards_PG


def draw_from(items: Sequence[Any]) -> Draw:
    """Prompts drawn from a fixed list, without repetition inside one draw where the list is long enough."""

    def draw(rng: random.Random, n: int) -> Sequence[Any]:
        return rng.sample(items, n) if n <= len(items) else rng.choices(items, k=n)

    return draw
