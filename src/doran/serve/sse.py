"""Answers that notice when the client leaves: server-sent events, and whole answers awaited.

Both watch the connection and cancel the work, which gives the engine's slots back (generation.py).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from doran.serve.errors import body_of

T = TypeVar("T")
PING_SECONDS = 15.0
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def data(value: Any, event: str | None = None) -> bytes:
    """One event."""
    text = json.dumps(value, ensure_ascii=False)
    return (f"event: {event}\n" if event else "").encode() + b"data: " + text.encode("utf-8", "replace") + b"\n\n"


async def gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`; cancelled, and ClientGone raised, when the client leaves first."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for future in (task, left):
            future.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


class EventStream(Response):
    """Sends what `chunks` yields. An error on the way becomes a last event; `path` decides its form."""

    def __init__(self, chunks: AsyncIterator[bytes], path: str, cleanup: Callable[[], None] | None = None) -> None:
        self._chunks, self._path, self._cleanup = chunks, path, cleanup
        self.status_code, self.background = 200, None
        self.raw_headers = list(HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        sending, left = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait({sending, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in (sending, left):
                future.cancel()
            await asyncio.gather(sending, left, return_exceptions=True)
            await self._chunks.aclose()  # type: ignore[attr-defined]
            if self._cleanup:  # chunks that were never begun have no `finally` of their own
                self._cleanup()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        line = Line(send)
        line.keep_open()
        try:
            async for chunk in self._chunks:
                await line.write(chunk)
        except OSError:
            return  # the client left between two pieces
        except Exception as error:
            name = "error" if self._path.startswith("/v1/messages") else None
            await line.write(data(body_of(error, self._path), name) + (b"" if name else b"data: [DONE]\n\n"))
        finally:
            line.close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Line:
    """A stream's way out. Where nothing was sent for a while a comment is, so that proxies keep the line open."""

    def __init__(self, send: Send) -> None:
        self._send, self._loop, self._last = send, asyncio.get_running_loop(), 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ping: asyncio.Task[None] | None = None

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body."""
        self._last = self._loop.time()
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    def keep_open(self) -> None:
        """Look now and then whether a comment is due."""
        if self._loop.time() - self._last >= PING_SECONDS and self._last:
            self._ping = asyncio.ensure_future(self._write_ping())
        self._timer = self._loop.call_later(PING_SECONDS, self.keep_open)

    async def _write_ping(self) -> None:
        with suppress(OSError):  # the client left; whoever writes next will notice
            await self.write(b": ping\n\n")

    def close(self) -> None:
        """No more comments."""
        for pending in (self._timer, self._ping):
            if pending:
                pending.cancel()
