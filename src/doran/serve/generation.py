"""From a checked job to its pieces: the service that all APIs share. Knows the engine's thread, not HTTP.

A job is n replies to one prompt. `Generation` yields (choice, Piece) and (choice, Done); leaving it early, by an
exception, a `break` or a cancelled task, gives its slots back (`async with`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from doran.engine.control import Bias, Controls, Penalties, Processor
from doran.engine.engine import Engine
from doran.engine.request import SamplingParams
from doran.serve.language import Guard, Language, Place
from doran.serve.metrics import Metrics
from doran.serve.reply import Ending, Piece, Plan, Reply
from doran.serve.settings import ServeSettings
from doran.serve.structure import Grammars
from doran.serve.worker import Ended, Ticket, Worker
from doran.text.tokenizer import Tokenizer

log = logging.getLogger("doran.serve")


@dataclass
class Job:
    """What to generate. Penalties and bias as OpenAI's and CTRL's."""

    prompt_ids: list[int]
    params: SamplingParams
    plan: Plan
    n: int = 1
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None


class Done(NamedTuple):
    """How a choice ended. `mean_logprob`: of its tokens, at the sampling temperature."""

    ending: Ending
    tokens: int
    reasoning_tokens: int
    closed_by: str | None = None
    error: Exception | None = None
    mean_logprob: float = 0.0
    stop_string: str | None = None


class Service:
    """A model in service: engine thread, tokenizer and what is made once for all requests."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, stop_ids: tuple[int, ...], settings: ServeSettings
    ) -> None:
        self.engine, self.tokenizer, self.stop_ids, self.settings = engine, tokenizer, stop_ids, settings
        self.worker = Worker(engine, settings.max_queue, settings.stream_interval)
        self.metrics = Metrics(self.worker)
        self.started = int(time.time())
        self._guards: dict[Language, Guard] = {}

    @property
    def context(self) -> int:
        """Most tokens of prompt and reply together."""
        return self.engine.model.config.max_position_embeddings

    @property
    def vocab_size(self) -> int:
        """Of the model, which may be larger than the tokenizer's."""
        return self.engine.model.config.vocab_size

    @cached_property
    def grammars(self) -> Grammars:
        """Made at first use; ModuleNotFoundError without llguidance."""
        return Grammars(self.tokenizer, self.vocab_size, self.stop_ids)

    async def guard(self, language: Language | None) -> Guard | None:
        """The guard of a language, made at first use, beside the loop."""
        if language is None:
            return None
        if language not in self._guards:
            guard = await asyncio.to_thread(Guard, self.tokenizer, language, self.vocab_size, self.stop_ids)
            for context in ("", "letter", "command"):
                await asyncio.to_thread(guard.allowed, Place(context))  # type: ignore[arg-type]
            self._guards[language] = guard
        return self._guards[language]

    def run(self, job: Job) -> Generation:
        """Submit a job. Raises at once where it cannot be taken: UsageError, QueueFull, Stopping, OutOfMemory."""
        if self.settings.log_prompts:
            log.info(json.dumps({"prompt": self.tokenizer.decode(job.prompt_ids)}, ensure_ascii=False))
        return Generation(self, job)


class Generation:
    """A running job; an async iterator and context manager. Neighbouring pieces of one kind come as one.

    The iterator raises the error of a choice that failed, once it is counted.
    """

    def __init__(self, service: Service, job: Job) -> None:
        self.job, self._service = job, service
        self._ticket = Ticket(asyncio.get_running_loop())
        self.replies = [Reply(job.plan, self._emitter(j)) for j in range(job.n)]
        self._logprobs = [0.0] * job.n
        self.interval = 0.0  # least seconds between two pieces
        self.started = time.perf_counter()
        self.first_token: float | None = None
        service.worker.submit(self._ticket, job.prompt_ids, job.params, [self._controls(j) for j in range(job.n)])
        self._open = job.n

    def _emitter(self, j: int) -> Any:
        return lambda piece: self._service.worker.emit(self._ticket, j, piece)

    def _controls(self, j: int) -> Controls:
        job, reply = self.job, self.replies[j]
        processors: list[Processor] = []
        if job.presence or job.frequency or job.repetition != 1.0:
            processors.append(Penalties(job.prompt_ids, job.presence, job.frequency, job.repetition))
        if job.bias:
            processors.append(Bias(job.bias, self._service.vocab_size))

        def watch(token: Any) -> bool:
            self._logprobs[j] += token.logprob
            return reply.watch(token)

        def read(tokens: Sequence[int], logprobs: Sequence[float]) -> tuple[int, bool]:
            kept, ended = reply.read(tokens)
            self._logprobs[j] += sum(logprobs[:kept])
            return kept, ended

        return Controls(
            tuple(processors), veto=reply.veto, watch=watch, read=read, careful=reply.careful,
            on_end=lambda reason, error: reply.finish(reason), top_logprobs=job.top_logprobs,
        )  # fmt: skip

    async def __aenter__(self) -> Generation:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._open:
            self.abort()

    def abort(self, choice: int | None = None) -> None:
        """End one choice, or all that still run."""
        self._service.worker.abort(self._ticket, choice)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece | Done]]:
        async for batch in self.batches():
            for item in batch:
                yield item

    async def batches(self) -> AsyncIterator[list[tuple[int, Piece | Done]]]:
        """The same items, those that came together in one list; never an empty one."""
        last = 0.0
        while self._open:
            got = await self._ticket.take()
            wait = last + self.interval - time.perf_counter()
            if wait > self.interval / 2 and not isinstance(got[0][1], Ended):
                await asyncio.sleep(wait)  # what comes meanwhile goes out in one piece
                got += await self._ticket.take() if self._ticket.ready else []
            last = time.perf_counter()
            self.first_token = self.first_token or last
            batch: list[tuple[int, Piece | Done]] = []
            failed: Exception | None = None
            for choice, event in _merged(got):
                if isinstance(event, Piece):
                    batch.append((choice, event))
                    continue
                self._open -= 1
                done = self._done(choice, event)
                failed = done.error
                if failed:
                    break
                batch.append((choice, done))
            if batch:
                yield batch
            if failed:
                raise failed

    def _done(self, choice: int, ended: Ended) -> Done:
        reply = self.replies[choice]
        done = Done(
            reply.ending or "error",
            len(reply.tokens),
            reply.reasoning_tokens,
            reply.closed_by,
            ended.error,
            self._logprobs[choice] / max(1, len(reply.tokens)),
            reply.stop_string,
        )
        self._service.metrics.finished(self, done)
        return done


def _merged(events: list[tuple[int, Piece | Ended]]) -> list[tuple[int, Piece | Ended]]:
    """The events with neighbouring text of one choice and kind joined. The choices' own orders stay."""
    if len(events) == 1:
        return events
    out: list[tuple[int, Piece | Ended]] = []
    latest: dict[int, int] = {}  # choice -> its last event's place in `out`
    for choice, event in events:
        before = out[latest[choice]][1] if choice in latest else None
        if isinstance(event, Piece) and isinstance(before, Piece):
            if event.kind != "call" and (before.kind, before.call) == (event.kind, event.call):
                joined = Piece(event.kind, before.text + event.text, event.call, before.tokens + event.tokens)
                out[latest[choice]] = choice, joined
                continue
        latest[choice] = len(out)
        out.append((choice, event))
    return out
