"""One row per running request: its settings, its random numbers and what it has said so far, as columns.

The decode step touches these columns with whole-batch operations only; Python looks at single requests when they start
and when they end. Knows nothing of models and caches.

Legend: S slots, N running (rows 0..N-1), W most new tokens of any request, K most stop tokens of any request.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from doran.base.errors import NumericsError
from doran.base.rng import numpy_rng
from doran.engine.request import Completion, Request
from doran.engine.sampler import RowParams, sample
from doran.engine.scheduler import Move


class Slots:
    """Columns for `num_slots` requests. `tokens_S[s]` is the last token of slot s, not yet in the cache."""

    def __init__(self, requests: Sequence[Request], num_slots: int) -> None:
        """`requests`: all that will ever run here; they decide the widths and which work every step can skip."""
        params = [r.params for r in requests]
        width, num_stops = max(p.max_new_tokens for p in params), max(len(p.stop_token_ids) for p in params)
        self.make(num_slots, width, num_stops)
        self.params.skip_what_none_asks(params)

    def make(self, num_slots: int, width: int, num_stops: int) -> None:
        """Empty columns of these sizes."""
        self.tokens_S = torch.zeros(num_slots, dtype=torch.long)
        self.lengths_S = torch.zeros(num_slots, dtype=torch.long)  # cached positions
        self.steps_S = torch.zeros(num_slots, dtype=torch.long)  # new tokens so far
        self.budget_S = torch.zeros(num_slots, dtype=torch.long)
        self.stops_SK = torch.full((num_slots, num_stops), -1)
        self.uniforms_SW = torch.zeros(num_slots, width, dtype=torch.float64)
        self.new_tokens_SW = torch.zeros(num_slots, width, dtype=torch.long)
        self.new_logprobs_SW = torch.zeros(num_slots, width)
        self.params = RowParams(
            torch.zeros(num_slots),
            torch.zeros(num_slots, dtype=torch.long),
            torch.zeros(num_slots),
            torch.zeros(num_slots),
        )

    def place(self, first: int, requests: Sequence[Request]) -> None:
        """Put requests into slots first, first + 1, ...; their prompts are in the cache already."""
        rows = slice(first, first + len(requests))
        params = [r.params for r in requests]
        self.lengths_S[rows] = torch.tensor([len(r.prompt_ids) for r in requests])
        self.steps_S[rows] = 0
        self.budget_S[rows] = torch.tensor([p.max_new_tokens for p in params])
        self.params.put(first, params)
        width = self.stops_SK.shape[1]
        self.stops_SK[rows] = torch.tensor([(p.stop_token_ids + (-1,) * width)[:width] for p in params])
        for slot, r in enumerate(requests, first):
            uniforms = numpy_rng("sample", r.params.seed, r.completion).random(r.params.max_new_tokens)
            self.uniforms_SW[slot, : len(uniforms)] = torch.from_numpy(uniforms)

    def advance(self, first: int, logits_NV: Tensor) -> list[int]:
        """Sample the next token of slots first, first + 1, ... from their logits; the slots that have ended by it."""
        rows = slice(first, first + logits_NV.shape[0])
        steps_N1 = self.steps_S[rows, None]
        uniform_N = self.uniforms_SW[rows].gather(1, steps_N1)[:, 0]
        tokens_N, logprobs_N = sample(logits_NV, self.params.rows(rows), uniform_N)
        self.new_tokens_SW[rows].scatter_(1, steps_N1, tokens_N[:, None])
        self.new_logprobs_SW[rows].scatter_(1, steps_N1, logprobs_N[:, None])
        self.tokens_S[rows] = tokens_N
        self.steps_S[rows] += 1
        ended_N = self.steps_S[rows] == self.budget_S[rows]
        ended_N |= (tokens_N[:, None] == self.stops_SK[rows]).any(1)
        return [first + i for i in ended_N.nonzero()[:, 0].tolist()]

    def completion(self, slot: int) -> Completion:
        """What this slot has said, as a finished completion. NumericsError if the model gave NaN on the way."""
        count = int(self.steps_S[slot])
        tokens = self.new_tokens_SW[slot, :count].tolist()
        logprobs = self.new_logprobs_SW[slot, :count].tolist()
        if any(p != p for p in logprobs):
            raise NumericsError("the model's logits are not numbers (NaN)", hint="check the weights, or use float32")
        stopped = tokens[-1] in self.stops_SK[slot].tolist()
        return Completion(tokens, logprobs, "stop" if stopped else "length")

    def said(self, slot: int, first: int) -> list[tuple[int, float]]:
        """The new tokens of a slot from number `first` on, each with its logprob."""
        new = slice(first, int(self.steps_S[slot]))
        return list(zip(self.new_tokens_SW[slot, new].tolist(), self.new_logprobs_SW[slot, new].tolist(), strict=True))

    def apply(self, moves: Sequence[Move]) -> None:
        """Copy whole rows, as the scheduler's `finish` asks."""
        if not moves:
            return
        src = torch.tensor([m.src for m in moves])
        dst = torch.tensor([m.dst for m in moves])
        for column in self._columns():
            column[dst] = column[src]

    def _columns(self) -> tuple[Tensor, ...]:
        p = self.params
        return (
            self.tokens_S, self.lengths_S, self.steps_S, self.budget_S, self.stops_SK, self.uniforms_SW,
            self.new_tokens_SW, self.new_logprobs_SW, p.temperature_N, p.top_k_N, p.top_p_N, p.min_p_N,
        )  # fmt: skip
