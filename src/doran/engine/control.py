"""What one request of a live session may bring along: logits processors, a watcher of its tokens, top logprobs.

All of it is per request and may hold state; an exception in it ends that request alone (live.py). Not here: the cuts
and the draw, which all requests share (sampler.py).

Legend: V vocab_size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from doran.base.errors import UsageError

EndReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True)
class Token:
    """One sampled token. `logprob` as in Completion, of what the processors left.

    `top`: the model's own distribution at temperature 1, before any processor; the sampled token first, then the k
    likeliest as (id, logprob), falling. Empty unless `Controls.top_logprobs` asks for it.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Processor(Protocol):
    """Changes one request's logits before its cuts and its draw."""

    def __call__(self, tokens: Sequence[int], logits_V: Tensor) -> Tensor | None:
        """`tokens`: the new ones so far. Returns logits_V (float32, may be changed in place); None: unchanged."""


@dataclass(frozen=True)
class Controls:
    """One completion's companions.

    processors     in order, each on what the one before left
    veto           hears of each drawn token before it counts: None lets it pass; else the allowed tokens (bool, V),
                   from which the engine draws anew. Where nothing is refused nothing changes, and a refused draw plus
                   an independent second one has exactly the masked distribution: p(t) + P(refused) p(t) / P(allowed)
    watch          hears of each token; True ends the request with "stop" after it
    read           instead of `veto` and `watch`, several drawn tokens and their logprobs at once, so that the engine
                   need not ask after each: (how many of them stand, does the request end by the last of those). The
                   rest is forgotten, and the first of it is drawn again before the eyes of `veto`
    careful        with `read`: must `veto` and `watch` hear of the next token at once?
    on_end         hears once how the request ended, with the exception where it failed; must not raise
    top_logprobs   how many likeliest tokens `Token.top` lists behind the sampled one; None: no list at all
    """

    processors: tuple[Processor, ...] = ()
    veto: Callable[[int], Tensor | None] | None = None
    watch: Callable[[Token], bool | None] | None = None
    read: Callable[[Sequence[int], Sequence[float]], tuple[int, bool]] | None = None
    careful: Callable[[], bool] | None = None
    on_end: Callable[[EndReason, Exception | None], None] | None = None
    top_logprobs: int | None = None


class Penalties:
    """Presence and frequency penalties over the new tokens (OpenAI), repetition over prompt and new ones (CTRL).

    presence p, frequency f: logit -= p * [seen] + f * count;  repetition r: logit / r where positive, * r where not.
    """

    def __init__(
        self, prompt_ids: Sequence[int], presence: float = 0.0, frequency: float = 0.0, repetition: float = 1.0
    ) -> None:
        if repetition <= 0:
            raise UsageError(f"repetition_penalty is {repetition}", hint="use a value above 0; 1 changes nothing")
        self._presence, self._frequency, self._repetition = presence, frequency, repetition
        self._prompt, self._counts, self._seen = set(prompt_ids), Counter[int](), 0

    def __call__(self, tokens: Sequence[int], logits_V: Tensor) -> Tensor:
        """As `Processor` says; each call looks at the new tokens only."""
        self._counts.update(tokens[self._seen :])
        self._seen = len(tokens)
        if self._repetition != 1.0:
            ids = torch.tensor(sorted(self._prompt | self._counts.keys()))
            old = logits_V[ids]
            logits_V[ids] = torch.where(old > 0, old / self._repetition, old * self._repetition)
        if self._counts and (self._presence or self._frequency):
            ids = torch.tensor(list(self._counts))
            counts = torch.tensor(list(self._counts.values()), dtype=logits_V.dtype)
            logits_V[ids] -= self._presence + self._frequency * counts
        return logits_V


class Bias:
    """Adds a number to the logits of some tokens (OpenAI's logit_bias)."""

    def __init__(self, bias: Mapping[int, float], vocab_size: int) -> None:
        if wrong := [index for index in bias if not 0 <= index < vocab_size]:
            raise UsageError(f"logit_bias has token id {wrong[0]}", hint=f"use ids from 0 to {vocab_size - 1}")
        self._ids, self._values = torch.tensor(list(bias)), torch.tensor(list(bias.values()), dtype=torch.float32)

    def __call__(self, tokens: Sequence[int], logits_V: Tensor) -> Tensor:
        """As `Processor` says."""
        logits_V[self._ids] += self._values
        return logits_V


class StopStrings:
    """Finds the first of some strings in a stream of text, across pieces.

    `feed` returns the text that is certain to stand before any of them, and whether one was found; what may still
    become a stop string is held back. `close` gives the held tail.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        if not all(strings):
            raise UsageError("a stop string is empty", hint="leave it out")
        self._strings, self._held = tuple(strings), ""
        self.found: str | None = None

    def feed(self, piece: str) -> tuple[str, bool]:
        """(certain text, found)."""
        if not self._strings:
            return piece, False
        text = self._held + piece
        first = min(((at, s) for s in self._strings if (at := text.find(s)) >= 0), default=None)
        if first:
            self._held, self.found = "", first[1]
            return text[: first[0]], True
        keep = max(next(n for n in range(len(s) - 1, -1, -1) if text.endswith(s[:n])) for s in self._strings)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def close(self) -> str:
        """The held tail, which is text after all."""
        held, self._held = self._held, ""
        return held
