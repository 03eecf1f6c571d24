"""A session that stays open: requests come and go while others run (continuous batching), one `step` at a time.

For servers. Same scheduler, runner and sampler as `Engine.generate`, hence the same tokens; but requests need not be
known beforehand, each may bring `Controls`, and one request's failure (NaN logits, a processor that raises) ends that
request alone. Not thread safe: one thread owns the session.

Where the runner is native and every request can `read` several tokens at once, a step is many decode steps in one
native call, draws included; what the requests then refuse is taken back. Else each token is heard as it is drawn.

Legend: N running requests, slots 0..N-1; V vocab_size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from doran.base.errors import NumericsError, OutOfMemory
from doran.base.rng import numpy_rng
from doran.engine.control import Controls, EndReason, Token
from doran.engine.native_runner import NativeRunner, draw
from doran.engine.request import Request, SamplingParams
from doran.engine.runner import reserve
from doran.engine.sampler import RowParams, sample
from doran.engine.scheduler import Group, Scheduler
from doran.engine.window import WIDTH, Row, Window

if TYPE_CHECKING:
    from doran.engine.engine import Engine

End = tuple[EndReason | None, Exception | None]  # how a request ends, if it does


class Live:
    """An open session of an engine. Made by `Engine.open()`.

    `interval`: for about so many seconds tokens are drawn before those that can `read` hear of them; 0: each step.
    """

    def __init__(self, engine: Engine, interval: float = 0.0) -> None:
        self._engine, self._stats = engine, engine.stats
        self._runner = engine.runner(engine.max_batch, engine.speculation)
        self._scheduler = Scheduler([], engine.max_batch, self._runner.fits)
        # One native call where there is one: between many small torch calls a server's other thread would take the GIL.
        self._draw = draw if isinstance(self._runner, NativeRunner) else sample
        self._window = Window(engine.max_batch)
        self._rows: dict[int, Row] = {}
        self._numbers = count()
        self._interval, self._due = interval, 0.0
        self._step_seconds = 0.0  # of a decode step, roughly

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
    def free_blocks(self) -> int | None:
        """Blocks of the cache that no running request holds; None where the cache has no blocks."""
        return self._runner.free_blocks if isinstance(self._runner, NativeRunner) else None

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
            heard = companion if isinstance(self._runner, NativeRunner) else replace(companion, read=None)
            self._rows[request.index] = Row(request, heard)
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
            slot = running.index(number)
            self._hear(slot, row)
            self._remove([slot])
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

    # ---- work ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> None:
        """One prefill of newly admitted requests, or new tokens of the running ones. Their companions hear.

        One new token each, unless all can `read`: then as many as the interval has room for, until somebody ends.
        """
        started, first = time.perf_counter(), len(self._scheduler.running)
        groups = self._scheduler.admit()
        if groups:
            self._prefill(first, groups)
            self._stats.prefill_seconds += time.perf_counter() - started
        elif first:
            self._decode(started)
            self._stats.decode_seconds += time.perf_counter() - started

    def _prefill(self, first: int, groups: list[Group]) -> None:
        prompts, rows = [g.prompt_ids for g in groups], self._running()
        cached = int(self._window.lengths_S[:first].max()) if first else 0
        reserve(self._runner, self._scheduler.running, first, max(cached, *map(len, prompts)))
        self._stats.prefill_tokens += sum(map(len, prompts))
        logits_NV = self._runner.prefill(prompts, [len(g.requests) for g in groups], first)
        self._window.enter(first, rows[first:])
        self._mix(rows)
        self._close(self._advance(first, rows[first:], logits_NV))

    def _decode(self, started: float) -> None:
        rows, window = self._running(), self._window
        number = len(rows)
        if isinstance(self._runner, NativeRunner) and not any(r.careful for r in rows):
            steps, stopped = self._runner.run(window, number, self._most(started))
            self._stats.decoded(steps, number, *self._runner.take_counts())
            self._step_seconds = 0.5 * (self._step_seconds + (time.perf_counter() - started) / steps)
            self._close((slot, *self._hear(slot, rows[slot])) for slot in stopped)
        else:
            lengths_N = window.lengths_S[:number]
            reserve(self._runner, self._scheduler.running, number, int(lengths_N.max()) + 1)
            logits_NV = self._runner.decode(window.tokens_S[:number], lengths_N)
            lengths_N += 1
            self._stats.decoded(1, number)
            self._close(self._advance(0, rows, logits_NV))
        full = bool((window.steps_S[:number] == WIDTH).any())
        if full or time.perf_counter() >= self._due:
            self._hand_over()

    def _most(self, now: float) -> int:
        """How many decode steps fit before tokens are handed over."""
        left = (self._due - now) / self._step_seconds if self._step_seconds else 0.0
        return int(min(max(left, 1.0), WIDTH))

    def _hand_over(self) -> None:
        """Everyone hears what was drawn."""
        self._close((slot, *self._hear(slot, row)) for slot, row in enumerate(self._running()))
        rows = self._running()
        if rows and int(self._window.steps_S[: len(rows)].max()) > WIDTH // 2:
            self._window.turn(0, rows)
        self._due = time.perf_counter() + self._interval

    def _advance(self, first: int, rows: list[Row], logits_NV: Tensor) -> list[tuple[int, *End]]:
        """Draw the next token of slots first, first + 1, ... from their logits; who has ended by it."""
        failed: dict[int, Exception] = {}
        chosen_NV = self._processed(rows, logits_NV, failed)
        where = slice(first, first + len(rows))
        uniform_N = self._window.next_uniforms(first, len(rows))
        tokens_N, logprobs_N = self._draw(chosen_NV, self._window.params.rows(where), uniform_N)
        stopped = self._window.note(first, tokens_N, logprobs_N)
        ended: list[tuple[int, *End]] = []
        for i, (token, logprob) in enumerate(zip(tokens_N.tolist(), logprobs_N.tolist(), strict=True)):
            slot = first + i
            if rows[i].careful:
                if i in failed:
                    ended.append((slot, "error", failed[i]))
                    continue
                end = self._took(slot, rows[i], (token, logprob), chosen_NV[i], logits_NV[i])
                ended.append((slot, *end))
            elif slot in stopped:
                ended.append((slot, *self._hear(slot, rows[i])))
        return ended

    def _processed(self, rows: list[Row], logits_NV: Tensor, failed: dict[int, Exception]) -> Tensor:
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

    def _took(self, slot: int, row: Row, one: tuple[int, float], chosen_V: Tensor, logits_V: Tensor) -> End:
        """Note a token, or one drawn in its place."""
        token, logprob = one
        if logprob != logprob:
            return "error", _not_a_number()
        try:
            if row.controls.veto and (allowed_V := row.controls.veto(token)) is not None:
                token, logprob = _redrawn(row, chosen_V, allowed_V)
                self._window.tokens_S[slot] = token
            row.tokens.append(token)
            row.logprobs.append(logprob)
            top = () if row.controls.top_logprobs is None else _top(logits_V, token, row.controls.top_logprobs)
            stop = bool(row.controls.watch and row.controls.watch(Token(token, logprob, top)))
            row.look_ahead()
        except Exception as error:  # the companions' own
            return "error", error
        return _end_of(row, stop)

    def _hear(self, slot: int, row: Row) -> End:
        """Let a row read what it has drawn since it last did; what it refuses is taken back."""
        tokens, logprobs = self._window.unheard(slot, row)
        if not tokens:
            return None, None
        if any(p != p for p in logprobs):
            return "error", _not_a_number()
        assert row.controls.read
        try:
            kept, stop = row.controls.read(tokens, logprobs)
            row.tokens += tokens[:kept]
            row.logprobs += logprobs[:kept]
            if kept < len(tokens) and not stop:
                self._window.rewind(slot, row)
                row.careful = True
                return None, None
            row.look_ahead()
        except Exception as error:
            return "error", error
        return _end_of(row, stop)

    # ---- bookkeeping -----------------------------------------------------------------------------------------------

    def _running(self) -> list[Row]:
        return [self._rows[r.index] for r in self._scheduler.running]

    def _mix(self, rows: Sequence[Row]) -> None:
        """What no running request asks of the sampler, it skips."""
        self._window.params.skip_what_none_asks([r.request.params for r in rows])

    def _close(self, ends: Iterable[tuple[int, *End]]) -> None:
        """Who has ended leaves, and hears of it."""
        ended = [(slot, reason, error) for slot, reason, error in ends if reason]
        rows = [self._rows[self._scheduler.running[slot].index] for slot, _, _ in ended]
        self._remove([slot for slot, _, _ in ended])
        for row, (_, reason, error) in zip(rows, ended, strict=True):
            self._end(row, reason, error)

    def _remove(self, slots: list[int]) -> None:
        if slots:
            moves = self._scheduler.finish(slots)
            self._window.apply(moves)
            for move in moves:
                self._runner.cache.move(move.src, move.dst)
            if isinstance(self._runner, NativeRunner):
                self._runner.only(len(self._scheduler.running))
            self._mix(self._running())

    def _forget_waiting(self, number: int) -> None:
        waiting = self._scheduler.waiting
        for _ in range(len(waiting)):  # once round, so that the order stays
            rest = tuple(r for r in waiting.popleft().requests if r.index != number)
            if rest:
                waiting.append(Group(rest))

    def _end(self, row: Row, reason: EndReason, error: Exception | None = None) -> None:
        del self._rows[row.request.index]
        on_end: Callable[[EndReason, Exception | None], None] | None = row.controls.on_end
        if on_end:
            on_end(reason, error)


def _end_of(row: Row, stop: bool) -> End:
    """Has the row ended by its last token?"""
    if stop or row.tokens[-1] in row.stops:
        return "stop", None
    return ("length" if len(row.tokens) == row.request.params.max_new_tokens else None), None


def _not_a_number() -> NumericsError:
    return NumericsError("no token can be drawn: the logits are NaN, or every token is masked")


def _redrawn(row: Row, logits_V: Tensor, allowed_V: Tensor) -> tuple[int, float]:
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
