"""What a rollout is made of: Reward, Dialect, Sample, Rollout. Plain data: nothing here samples, judges or learns.

P prompts, G completions of each (a group).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from doran.engine.request import Completion

RewardFn = Callable[[list[Any], list[str], list[Completion]], list[float]]
Draw = Callable[[random.Random, int], Sequence[Any]]
Reply = Callable[[str], "list[int] | None"]


@dataclass(frozen=True)
class Reward:
    """One part of the reward: `fn(items, texts, completions)` gives a number per completion, `weight` multiplies it."""

    name: str
    weight: float
    fn: RewardFn


class Environment(Protocol):
    """Something a model talks with during a rollout: a tool, a game, a second model. Token in, token out.

    `begin(item)` starts an episode and returns its answering machine: a function from what the model wrote in its turn
    (text, special tokens included) to the token ids it is to read next, or None when the episode is over. The model's
    turn ends with one of the dialect's stop tokens or of `stop_token_ids` (say, the tag that closes a tool call). What
    the environment writes is context: it bears no loss.
    """

    stop_token_ids: tuple[int, ...]

    def begin(self, item: Any) -> Reply:
        """The answering machine of one episode; it may keep state."""
        ...


def item_key(item: Any) -> str:
    """A name for a prompt that stays the same over a run: its `key`, its item's, or what it looks like."""
    for holder in (item, getattr(item, "item", None)):
        if isinstance(key := getattr(holder, "key", None), str) and key:
            return key
    return repr(item)


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
    """One completion with all that is known of it.

    In an environment the completion holds all turns; `mask` is then False for the tokens the environment wrote, whose
    logprobs are 0 and mean nothing. `fault`: why it could not be judged; such a sample is left out, not scored 0.
    `age`: steps since it was sampled, where it is replayed. `exact_logprobs`: the trainer's own logprobs of the learned
    tokens before the update, where they were asked for; `completion.logprobs` stay those it was drawn with.
    """

    item: Any
    group: int
    prompt_ids: list[int]
    completion: Completion
    text: str
    rewards: dict[str, float] = field(default_factory=dict)  # by part, unweighted
    reward: float = 0.0
    advantage: float = 0.0
    mask: list[bool] | None = None
    fault: str | None = None
    age: int = 0
    exact_logprobs: list[float] | None = None

    @property
    def truncated(self) -> bool:
        """Did it hit the length limit?"""
        return self.completion.finish_reason == "length"

    @property
    def length(self) -> int:
        """Completion tokens, the stop token included."""
        return len(self.completion.token_ids)

    @property
    def num_learned(self) -> int:
        """Completion tokens that the model itself wrote."""
        return self.length if self.mask is None else sum(self.mask)

    @property
    def learned_logprobs(self) -> list[float]:
        """The sampler's logprobs of those."""
        if self.mask is None:
            return self.completion.logprobs
        return [p for p, own in zip(self.completion.logprobs, self.mask, strict=True) if own]


@dataclass
class Rollout:
    """What one step sampled (`samples`, all of it), what of it teaches (`kept`), what of earlier steps is to be learnt
    again (`replayed`), and where the time went."""

    samples: list[Sample] = field(default_factory=list)
    kept: list[Sample] = field(default_factory=list)
    replayed: list[Sample] = field(default_factory=list)
    rewards_PG: Tensor = field(default_factory=lambda: torch.zeros(0, 0))  # whole groups only
    sample_seconds: float = 0.0
    score_seconds: float = 0.0
    unusable_prompts: int = 0
    probed: int = 0  # groups begun with a probe
    mixed: int = 0  # and those whose probe differed
    probe_rewards: list[float] = field(default_factory=list)  # mean reward of each probe: no choice bends this one


def groups_of(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples by group, in order of appearance."""
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    return list(groups.values())
