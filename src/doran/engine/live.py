"""A session that stays open: requests come and go while others run (continuous batching), one `step` at a time.

For servers. Same scheduler, runner and sampler as `Engine.generate`, hence the same tokens; but requests need not be
known beforehand, each may bring `Controls`, and one request's failure (NaN logits, a processor that raises) ends that
request alone. Not thread safe: one thread owns the session.

Legend: N running requests, slots 0..N-1; V vocab_size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from doran.base.errors import NumericsError, OutOfMemory
from doran.base.rng import numpy_rng
from doran.engine.control import Controls, EndReason, Token
from doran.engine.native_runner import NativeRunner, draw
from doran.engine.request import Completion, Request, SamplingParams
from doran.engine.runner import reserve
from doran.engine.sampler import RowParams, sample
from doran.engine.scheduler import Group, Scheduler

if TYPE_CHECKING:
    from doran.engine.engine import Engine

CHUNK = 256  # uniforms drawn at a time; pieces of one stream equal the whole


class _Row:
    """A request and what it has said so far."""

    def __init__(self, request: Request, controls: Controls) -> None:
        self.request, self.controls = request, controls
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.stops = frozenset(request.params.stop_token_ids)
        self._rng = numpy_rng("sample", request.params.seed, request.completion)
        self._uniforms = np.empty(0)

    def uniform(self) -> float:
        """The uniform of the next token."""
        at = len(self.tokens) % CHUNK
        if at == 0:
            self._uniforms = self._rng.random(CHUNK)
        return float(self._uniforms[at])

    @property
    def length(self) -> int:
        """Cached positions: the prompt and all new tokens but the last."""
        return len(self.request.prompt_ids) + len(self.tokens) - 1


class Live:
    """An open session of an engine. Made by `Engine.open()`."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._stats = engine, engine.stats
        self._runner = engine.runner(engine.max_batch)
        self._scheduler = Scheduler([], engine.max_batch, self._runner.fits)
        # One native call where there is one: between many small torch calls a server's other thread would take the GIL.
        self._draw = draw if isinstance(self._runner, NativeRunner) else sample
        self._rows: dict[int, _Row] = {}
        self._numbers = count()
        self._params: RowParams | None = None  # of the running requests, until one comes or goes

    # ---- what is going on ------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Is there anything to step?"""
        return self._scheduler.busy

    @property
    def free_slots(self) -> int:
        """Slots that no running request holds; `max_batch` when all is quiet."""
        return self._engine.max_batch - len(self._scheduler.running)

    @property
    def num_running(self) -> int:
        """Requests that hold a slot."""
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for one."""
        return sum(len(g.requests) for g in self._scheduler.waiting)

    # ---- requests ----------------------------------------------------------------------------------------------

    def submit(
        self, prompt_ids: Sequence[int], params: SamplingParams, controls: Sequence[Controls] = (Controls(),)
    ) -> list[int]:
        """Queue one completion for each of `controls`, all from one prefill; their numbers, for `abort`.

        Completion j draws as completion j of `Engine.generate(n=...)`. max_new_tokens is cut to the model's context.
        Errors, before anything is queued: UsageError (empty or too long prompt, unknown id), OutOfMemory (it can
        never fit).
        """
        ids = self._engine.checked("the prompt", prompt_ids)
        params = self._engine.within_context(ids, params)
        requests = tuple(Request(next(self._numbers), j, ids, params) for j in range(len(controls)))
        if not self._runner.fits(1, requests[0].max_length):
            raise OutOfMemory(
                f"the cache of {requests[0].max_length} tokens exceeds the memory budget",
                hint="lower max_tokens or shorten the prompt",
            )
        for request, companion in zip(requests, controls, strict=True):
            self._rows[request.index] = _Row(request, companion)
        self._scheduler.waiting.append(Group(requests))
        return [r.index for r in requests]

    @torch.inference_mode()
    def abort(self, number: int) -> bool:
        """End a request now, waiting or running; its slot is free at once. False where it had ended already."""
        row = self._rows.get(number)
        if row is None:
            return False
        running = [r.index for r in self._scheduler.running]
        if number in running:
            self._remove([running.index(number)])
        else:
            self._forget_waiting(number)
        self._end(row, "abort")
        return True

    def close(self) -> None:
        """Abort everything."""
        for number in list(self._rows):
            self.abort(number)

    def fail(self, error: Exception) -> None:
        """End everything with `error`: for an owner that saw `step` raise. The session is of no more use."""
        for row in list(self._rows.values()):
            self._end(row, "error", error)

    def result(self, number: int) -> Completion | None:
        """What a request that still runs has said so far; None once it has ended."""
        row = self._rows.get(number)
        return None if row is None else Completion(list(row.tokens), list(row.logprobs), "length")

    # ---- work ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> None:
        """One prefill of newly admitted requests, or one new token of each running one. `watch` and `on_end` hear."""
        started, first = time.perf_counter(), len(self._scheduler.running)
        groups = self._scheduler.admit()
        if groups:
            self._advance(first, self._prefill(first, groups))
            self._stats.prefill_seconds += time.perf_counter() - started
        elif first:
            self._advance(0, self._decode(first))
            self._stats.decode_seconds += time.perf_counter() - started

    def _prefill(self, first: int, groups: list[Group]) -> Tensor:
        self._params = None
        prompts = [g.prompt_ids for g in groups]
        cached = max((self._row(s).length for s in range(first)), default=0)
        reserve(self._runner, self._scheduler.running, first, max(cached, *map(len, prompts)))
        self._stats.prefill_tokens += sum(map(len, prompts))
        return self._runner.prefill(prompts, [len(g.requests) for g in groups], first)

    def _decode(self, running: int) -> Tensor:
        rows = [self._row(s) for s in range(running)]
        lengths_N = torch.tensor([r.length for r in rows])
        reserve(self._runner, self._scheduler.running, running, int(lengths_N.max()) + 1)
        self._stats.decode_tokens += running
        self._stats.decode_steps += 1
        return self._runner.decode(torch.tensor([r.tokens[-1] for r in rows]), lengths_N)

    def _advance(self, first: int, logits_NV: Tensor) -> None:
        """Sample the next token of slots first, first + 1, ...; who has ended by it leaves."""
        rows = [self._row(first + i) for i in range(len(logits_NV))]
        failed: dict[int, Exception] = {}
        chosen_NV = self._processed(rows, logits_NV, failed)
        uniform_N = torch.tensor([r.uniform() for r in rows], dtype=torch.float64)
        tokens_N, logprobs_N = self._draw(chosen_NV, self._columns(first), uniform_N)
        ended: list[tuple[int, EndReason, Exception | None]] = []
        for i, (token, logprob) in enumerate(zip(tokens_N.tolist(), logprobs_N.tolist(), strict=True)):
            error = failed.get(i)
            if error is None and logprob != logprob:
                error = NumericsError("no token can be drawn: the logits are NaN, or every token is masked")
            reason: EndReason | None = "error"
            if error is None:
                reason, error = self._took(rows[i], token, logprob, chosen_NV[i], logits_NV[i])
            if reason:
                ended.append((first + i, reason, error))
        self._remove([slot for slot, _, _ in ended])
        for slot, reason, error in ended:
            self._end(rows[slot - first], reason, error)

    def _processed(self, rows: list[_Row], logits_NV: Tensor, failed: dict[int, Exception]) -> Tensor:
        """The logits after each row's processors; a copy where there are any."""
        touched = [i for i, r in enumerate(rows) if r.controls.processors]
        if not touched:
            return logits_NV
        chosen_NV = logits_NV.float().clone()
        for i in touched:
            try:
                for processor in rows[i].controls.processors:
                    logits_V = processor(rows[i].tokens, chosen_NV[i])
                    if logits_V is not None:
                        chosen_NV[i] = logits_V
            except Exception as error:  # whatever it is, it is this request's own
                failed[i] = error
        return chosen_NV

    def _took(
        self, row: _Row, token: int, logprob: float, chosen_V: Tensor, logits_V: Tensor
    ) -> tuple[EndReason | None, Exception | None]:
        """Note a token, or one drawn in its place; how the request ends by it, if it does."""
        try:
            if row.controls.veto and (allowed_V := row.controls.veto(token)) is not None:
                token, logprob = _redrawn(row, chosen_V, allowed_V)
            row.tokens.append(token)
            row.logprobs.append(logprob)
            top = () if row.controls.top_logprobs is None else _top(logits_V, token, row.controls.top_logprobs)
            stop = bool(row.controls.watch and row.controls.watch(Token(token, logprob, top)))
        except Exception as error:  # the companions' own
            return "error", error
        if stop or token in row.stops:
            return "stop", None
        return ("length" if len(row.tokens) == row.request.params.max_new_tokens else None), None

    # ---- bookkeeping -----------------------------------------------------------------------------------------------

    def _row(self, slot: int) -> _Row:
        return self._rows[self._scheduler.running[slot].index]

    def _columns(self, first: int) -> RowParams:
        """Sampling settings of slots first, ... as columns."""
        if self._params is None:
            self._params = RowParams.of([r.params for r in self._scheduler.running])
        return self._params.rows(slice(first, None))

    def _remove(self, slots: list[int]) -> None:
        if slots:
            self._params = None
            for move in self._scheduler.finish(slots):
                self._runner.cache.move(move.src, move.dst)

    def _forget_waiting(self, number: int) -> None:
        waiting = self._scheduler.waiting
        for _ in range(len(waiting)):  # once round, so that the order stays
            rest = tuple(r for r in waiting.popleft().requests if r.index != number)
            if rest:
                waiting.append(Group(rest))

    def _end(self, row: _Row, reason: EndReason, error: Exception | None = None) -> None:
        del self._rows[row.request.index]
        on_end: Callable[[EndReason, Exception | None], None] | None = row.controls.on_end
        if on_end:
            on_end(reason, error)


def _redrawn(row: _Row, logits_V: Tensor, allowed_V: Tensor) -> tuple[int, float]:
    """A token among the allowed ones and its logprob there. NumericsError where there is none."""
    p = row.request.params
    if not allowed_V.any():
        raise NumericsError("no token is allowed here")
    uniform = numpy_rng("redraw", p.seed, row.request.completion, len(row.tokens)).random(1)
    logits_1V = logits_V.float().masked_fill(~allowed_V, float("-inf"))[None]
    tokens_1, logprobs_1 = sample(logits_1V, RowParams.of([p]), torch.from_numpy(uniform))
    return int(tokens_1), float(logprobs_1)


def _top(logits_V: Tensor, token: int, k: int) -> tuple[tuple[int, float], ...]:
    logprobs_V = torch.log_softmax(logits_V.float(), -1)
    values_K, ids_K = logprobs_V.topk(k) if k else (logprobs_V[:0], torch.empty(0, dtype=torch.long))
    return (token, float(logprobs_V[token])), *zip(ids_K.tolist(), values_K.tolist(), strict=True)
