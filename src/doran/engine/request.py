"""What goes into the engine and what comes out: SamplingParams, Request, Completion. Plain data, no torch.

Every value a user can set is checked here, once, so that the runner's hot loop checks nothing.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from doran.base.errors import UsageError

FinishReason = Literal["stop", "length"]
Drafts = Literal["none", "ngram", "mtp"]
DRAFTS: tuple[Drafts, ...] = ("none", "ngram", "mtp")
"""Where drafted tokens come from, in the order of native/decoder.h."""


@dataclass(frozen=True)
class SamplingParams:
    """How to continue one prompt.

    max_new_tokens   most tokens to add, a stop token included
    temperature      logits are divided by it; 0 means greedy (ties go to the lowest id)
    top_p            keep the smallest set of likeliest tokens with at least this much probability; 1 keeps all
    top_k            keep the k likeliest tokens; 0 keeps all
    min_p            drop tokens with less than min_p times the likeliest token's probability; 0 keeps all
    seed             completion j of a prompt draws from numpy_rng("sample", seed, j). Two *different* prompts with one
                     seed share their uniforms: give each prompt its own seed where draws must be independent (RL)
    stop_token_ids   generation ends with the first of these; the stop token is part of the completion

    The cuts apply in the order top_k, top_p (of what top_k left, renormalised), min_p. Errors: UsageError.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "seed"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        for name in ("temperature", "top_p", "min_p"):
            object.__setattr__(self, name, _finite(name, getattr(self, name)))
        object.__setattr__(self, "stop_token_ids", token_ids("stop_token_ids", self.stop_token_ids))
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "use 1 or more")
        _require(self.temperature >= 0, "temperature", self.temperature, "use 0 (greedy) or more, e.g. 0.6")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "use a value above 0 and up to 1; 1 keeps every token")
        _require(self.top_k >= 0, "top_k", self.top_k, "use 0 (keep every token) or more")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "use a value from 0 (keep every token) to 1")

    @property
    def cuts(self) -> bool:
        """Does any of top_k, top_p, min_p remove tokens? (Greedy needs no cut: the likeliest token always stays.)"""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)


@dataclass(frozen=True)
class Speculation:
    """How an engine guesses ahead (engine/speculate.py). It changes no token, only how fast they come.

    drafts         none; ngram: what followed the same last tokens before; mtp: the model's MTP module
    draft_tokens   most guesses a request and step
    least_chance   MTP guesses end where all of them together are less likely right than this, by the module's own word
    """

    drafts: Drafts = "none"
    draft_tokens: int = 2
    least_chance: float = 0.5

    def __post_init__(self) -> None:
        if self.drafts not in DRAFTS:
            raise UsageError(f"unknown drafts {self.drafts!r}", hint=f"use one of: {', '.join(DRAFTS)}")
        object.__setattr__(self, "draft_tokens", _whole("draft_tokens", self.draft_tokens))
        object.__setattr__(self, "least_chance", _finite("least_chance", self.least_chance))
        _require(1 <= self.draft_tokens <= 15, "draft_tokens", self.draft_tokens, "use 1 to 15")
        _require(0 <= self.least_chance <= 1, "least_chance", self.least_chance, "use a value from 0 to 1")


@dataclass(frozen=True)
class Request:
    """One completion to make: number `index` of the call (prompt i, completion j of n: index = i * n + j)."""

    index: int
    completion: int  # j: which stream of random numbers
    prompt_ids: tuple[int, ...]
    params: SamplingParams

    @property
    def max_length(self) -> int:
        """Cache positions it can need. The last token is never fed back, so it needs none."""
        return len(self.prompt_ids) + self.params.max_new_tokens - 1


@dataclass(frozen=True)
class Completion:
    """What the model added to one prompt.

    token_ids       the stop token, if it came, is the last
    logprobs        one per token: natural log of its probability at the sampling temperature, before top_k, top_p and
                    min_p cut anything; at temperature 0, of the temperature-1 distribution. This is the behaviour
                    policy that the policy-gradient ratio needs, and it is finite whatever the cuts do.
    finish_reason   "stop": a stop token came; "length": max_new_tokens was reached first
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


def token_ids(name: str, ids: Sequence[int]) -> tuple[int, ...]:
    """`ids` as a tuple of whole numbers >= 0; UsageError naming `name` otherwise."""
    if isinstance(ids, (str, bytes)) or not hasattr(ids, "__iter__"):
        raise UsageError(f"{name} is {ids!r}", hint="give a list of token ids, e.g. [1, 2, 3]")
    checked = tuple(_whole(name, i) for i in ids)
    _require(min(checked, default=0) >= 0, name, min(checked, default=0), "token ids are 0 or more")
    return checked


def _whole(name: str, value: object) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{name} is {value!r}", hint="use a whole number") from None


def _finite(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"{name} is {value!r}", hint="use a finite number")
    return float(value)


def _require(ok: bool, name: str, value: object, mend: str) -> None:
    if not ok:
        raise UsageError(f"{name} is {value}", hint=mend)


PLAIN = Speculation()
"""No speculation."""
