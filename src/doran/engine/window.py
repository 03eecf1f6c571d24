"""Slots for requests that are not known beforehand: the newest tokens of each, and the uniforms of its next ones.

A window holds what running requests drew since it was last turned; a row's list of tokens holds what was heard of them.
Knows nothing of models, nor of when to listen (live.py).

Legend: S slots, N rows, running in slots 0..N-1 or first, first + 1, ...; W width of the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from doran.base.rng import numpy_rng
from doran.engine.control import Controls
from doran.engine.request import Request
from doran.engine.slots import Slots

WIDTH = 64  # new tokens that a window holds
CHUNK = 256  # uniforms drawn at a time; pieces of one stream equal the whole


class Row:
    """A request and what has been heard of it so far. `start`: how much of that came before the window."""

    def __init__(self, request: Request, controls: Controls) -> None:
        self.request, self.controls = request, controls
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.stops = frozenset(request.params.stop_token_ids)
        self.start = 0
        self.careful = True  # is each token heard at once?
        self._rng = numpy_rng("sample", request.params.seed, request.completion)
        self._uniforms, self._from = np.empty(0), 0

    def uniforms(self, position: int, count: int) -> np.ndarray:
        """The uniforms of `count` new tokens from `position` on; positions never fall."""
        held = self._uniforms[position - self._from :]
        while len(held) < count:
            held = np.concatenate([held, self._rng.random(CHUNK)])
        self._uniforms, self._from = held, position
        return held[:count]

    def look_ahead(self) -> None:
        """Decide anew whether each token must be heard at once."""
        c = self.controls
        free = c.read is not None and not c.processors and c.top_logprobs is None
        self.careful = not free or bool(c.careful and c.careful())


class Window(Slots):
    """The columns. Slot s has drawn `steps_S[s]` tokens in this window; it stops at `budget_S[s]`, at most W."""

    def __init__(self, num_slots: int) -> None:
        self.make(num_slots, WIDTH, 1)

    def enter(self, first: int, rows: Sequence[Row]) -> None:
        """Requests whose prompts are in the cache come into slots first, first + 1, ..."""
        where, params = slice(first, first + len(rows)), [r.request.params for r in rows]
        most, old_SK = max(len(p.stop_token_ids) for p in params), self.stops_SK
        if most > old_SK.shape[1]:
            self.stops_SK = torch.full((len(old_SK), most), -1)
            self.stops_SK[:, : old_SK.shape[1]] = old_SK
        width = self.stops_SK.shape[1]
        self.lengths_S[where] = torch.tensor([len(r.request.prompt_ids) for r in rows])
        self.stops_SK[where] = torch.tensor([(p.stop_token_ids + (-1,) * width)[:width] for p in params])
        self.params.put(first, params)
        self.turn(first, rows)

    def turn(self, first: int, rows: Sequence[Row]) -> None:
        """A new window for these slots: all that they drew has been heard."""
        where, left = slice(first, first + len(rows)), []
        for slot, row in enumerate(rows, first):
            row.start = len(row.tokens)
            left.append(min(WIDTH, row.request.params.max_new_tokens - row.start))
            self.uniforms_SW[slot, : left[-1]] = torch.from_numpy(row.uniforms(row.start, left[-1]))
        self.steps_S[where] = 0
        self.budget_S[where] = torch.tensor(left)

    def note(self, first: int, tokens_N: Tensor, logprobs_N: Tensor) -> list[int]:
        """Drawn from logits: the next token of slots first, ...; those that stop by it, at a token or their budget."""
        where = slice(first, first + len(tokens_N))
        steps_N1 = self.steps_S[where, None]
        self.new_tokens_SW[where].scatter_(1, steps_N1, tokens_N[:, None])
        self.new_logprobs_SW[where].scatter_(1, steps_N1, logprobs_N[:, None])
        self.tokens_S[where] = tokens_N
        self.steps_S[where] += 1
        stop_N = self.steps_S[where] == self.budget_S[where]
        stop_N |= (tokens_N[:, None] == self.stops_SK[where]).any(1)
        return [first + i for i in stop_N.nonzero()[:, 0].tolist()]

    def next_uniforms(self, first: int, count: int) -> Tensor:
        """One for each of slots first, ..., first + count - 1 (float64)."""
        where = slice(first, first + count)
        return self.uniforms_SW[where].gather(1, self.steps_S[where, None])[:, 0]

    def unheard(self, slot: int, row: Row) -> tuple[list[int], list[float]]:
        """Tokens that were drawn and not heard, and their logprobs."""
        where = slice(len(row.tokens) - row.start, int(self.steps_S[slot]))
        return self.new_tokens_SW[slot, where].tolist(), self.new_logprobs_SW[slot, where].tolist()

    def rewind(self, slot: int, row: Row) -> None:
        """Forget what the row has drawn and not heard. It has heard one token at least: that one is fed next."""
        self.steps_S[slot] = len(row.tokens) - row.start
        self.lengths_S[slot] = len(row.request.prompt_ids) + len(row.tokens) - 1
        self.tokens_S[slot] = row.tokens[-1]
