"""The engine's thread: it alone touches the live session; the event loop sends it requests and hears of their tokens.

What happens in one step is handed over at once (one wake-up of the loop a step, however many requests run). Not here:
what a request means (generation.py).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from doran.base.errors import DoranError
from doran.engine.control import Controls, EndReason
from doran.engine.engine import Engine
from doran.engine.request import SamplingParams


class QueueFull(DoranError):
    """As many requests wait as may."""


class Stopping(DoranError):
    """The server is shutting down."""


@dataclass(eq=False)
class Ticket:
    """One submitted group of completions. Its events, (completion j, event), come in order; one task takes them."""

    loop: asyncio.AbstractEventLoop
    numbers: list[int] = field(default_factory=list)  # of the session; empty until the thread took it in
    _arrived: list[tuple[int, Any]] = field(default_factory=list)
    _waiting: asyncio.Future[None] | None = None

    @property
    def ready(self) -> bool:
        """Has anything come?"""
        return bool(self._arrived)

    async def take(self) -> list[tuple[int, Any]]:
        """All events that have come; waits for the first."""
        if not self._arrived:
            self._waiting = self.loop.create_future()
            await self._waiting
        taken, self._arrived = self._arrived, []
        return taken

    def put(self, completion: int, event: Any) -> None:
        """Add an event; in the loop's thread."""
        self._arrived.append((completion, event))
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)


@dataclass(frozen=True)
class Ended:
    """The last event of a completion."""

    reason: EndReason
    error: Exception | None = None


class Worker:
    """Runs an engine in a thread. `start` it; `submit` and `abort` from the event loop; `stop` at the end."""

    def __init__(self, engine: Engine, max_queue: int, interval: float = 0.0) -> None:
        """`interval`: seconds of decoding between two hand-overs of tokens, roughly (engine/live.py)."""
        self.engine, self.max_queue, self.interval = engine, max_queue, interval
        self._live = engine.open(interval)
        self._inbox: deque[Callable[[], None]] = deque()
        self._outbox: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, int, Any]]] = {}
        self._wake = threading.Condition()
        self._pending = 0  # completions submitted and not ended; guarded by _wake
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="doran-engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def free_slots(self) -> int:
        """Slots without a request; `engine.max_batch` when all is quiet."""
        return self._live.free_slots

    @property
    def free_blocks(self) -> int | None:
        """Blocks of the cache that nobody holds; None where it has none."""
        return self._live.free_blocks

    @property
    def num_running(self) -> int:
        """Requests that hold a slot."""
        return self._live.num_running

    @property
    def pending(self) -> int:
        """Completions that run or wait."""
        return self._pending

    @property
    def alive(self) -> bool:
        """Does the thread run?"""
        return self._thread.is_alive() and not self._stopping

    def submit(
        self, ticket: Ticket, prompt_ids: Sequence[int], params: SamplingParams, controls: Sequence[Controls]
    ) -> None:
        """Queue a group under a new ticket. UsageError: the prompt; QueueFull: too many wait; Stopping."""
        self.engine.checked("the prompt", prompt_ids)
        with self._wake:
            if self._stopping:
                raise Stopping("the server is shutting down", hint="try again in a moment")
            if self._pending + len(controls) > self.engine.max_batch + self.max_queue:
                raise QueueFull(f"{self._pending} requests run or wait", hint="try again in a moment")
            self._pending += len(controls)
        mine = [replace(c, on_end=self._on_end(ticket, j, c)) for j, c in enumerate(controls)]
        self._do(lambda: self._take_in(ticket, prompt_ids, params, mine))

    def emit(self, ticket: Ticket, completion: int, event: Any) -> None:
        """Note an event for a ticket; in the engine's thread (from a watcher)."""
        self._outbox.setdefault(ticket.loop, []).append((ticket, completion, event))

    def abort(self, ticket: Ticket, completion: int | None = None) -> None:
        """End one completion of a ticket, or all; from any thread. Those that have ended already are left alone."""
        self._do(lambda: self._drop(ticket, completion))

    def stop(self, patience: float) -> None:
        """Take nothing new, let what runs finish for `patience` seconds, then end the rest. Blocks."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(patience)
        if self._thread.is_alive():
            self._do(self._live.close)
            self._thread.join(10)

    # ---- in the engine's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._inbox or self._live.busy):
                    if self._stopping:
                        return
                    self._wake.wait()
            while self._inbox:
                self._inbox.popleft()()
            if self._live.busy:
                self._step()
            self._flush()

    def _step(self) -> None:
        try:
            self._live.step()
        except Exception as error:  # not one request's own: nothing in the session can be trusted any more
            failed, self._live = self._live, self.engine.open(self.interval)
            failed.fail(error)

    def _take_in(
        self, ticket: Ticket, ids: Sequence[int], params: SamplingParams, controls: Sequence[Controls]
    ) -> None:
        try:
            ticket.numbers = self._live.submit(ids, params, controls)
        except Exception as error:
            for c in controls:
                assert c.on_end
                c.on_end("error", error)

    def _drop(self, ticket: Ticket, completion: int | None) -> None:
        for number in ticket.numbers if completion is None else ticket.numbers[completion : completion + 1]:
            self._live.abort(number)

    def _on_end(self, ticket: Ticket, j: int, controls: Controls) -> Callable[[EndReason, Exception | None], None]:
        def on_end(reason: EndReason, error: Exception | None) -> None:
            if controls.on_end:
                controls.on_end(reason, error)
            self.emit(ticket, j, Ended(reason, error))
            with self._wake:
                self._pending -= 1

        return on_end

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, {}
        for loop, events in outbox.items():
            try:
                loop.call_soon_threadsafe(_deliver, events)
            except RuntimeError:  # the loop is closed: nobody listens any more
                for ticket in {ticket for ticket, _, _ in events}:
                    self._drop(ticket, None)

    # ---- from any thread -----------------------------------------------------------------------------------------

    def _do(self, action: Callable[[], None]) -> None:
        with self._wake:
            self._inbox.append(action)
            self._wake.notify()


def _deliver(events: list[tuple[Ticket, int, Any]]) -> None:
    for ticket, completion, event in events:
        ticket.put(completion, event)
