"""`Sandbox`: run a program, or check code against tests, in an isolated process that is forked in milliseconds.

    with Sandbox() as box:
        box.run("print(6 * 7)").output                                      # "42\n"
        box.check("def f(x): return 2 * x", ["assert f(3) == 6"], ["f"])    # Verdict(passed=1, total=1, ...)

The parent's side: limits, deadlines, replacing what died. Not here: namespaces (isolate.py), the guests (guest.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import socket
import subprocess
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any, Literal

from doran.base.config import StrictModel
from doran.base.errors import ConfigError
from doran.sandbox.launch import Backend, start

Status = Literal["ok", "error", "timeout", "output", "killed"]
"""How a run ended: by itself (exit code 0 or another), at a limit of time or output, by a signal (memory, a crash)."""

_GRACE_S = 5.0
"""What a zygote may take beyond a run's time limit before it counts as dead."""


class Limits(StrictModel):
    """What one run may use: wall clock, address space of a process, output, files in /tmp, threads."""

    wall_s: float = 5.0
    memory_mb: int = 512
    output_kb: int = 64
    tmp_mb: int = 16
    threads: int = 16


@dataclass(frozen=True)
class Run:
    """A program's end: status, exit code (negative: the signal), what it wrote, wall and CPU seconds."""

    status: Status
    exit_code: int
    output: str
    errors: str
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Verdict:
    """Code against tests: how many of `total` passed, how it ended, the first failure in a line, seconds."""

    status: Status
    passed: int
    total: int
    reason: str
    seconds: float
    cpu_seconds: float

    @property
    def correct(self) -> bool:
        return self.status == "ok" and self.passed == self.total > 0


class Sandbox:
    """A pool of zygotes that start at the first need. Any thread may call; `workers` runs at a time (default: cores).

    SandboxError where isolation is impossible. A zygote that dies is replaced and the run it had counts as killed.
    """

    def __init__(self, limits: Limits | None = None, workers: int | None = None, backend: Backend = "auto") -> None:
        self.limits = limits or Limits()
        least = {"wall_s": 0.01, "memory_mb": 128, "output_kb": 1, "tmp_mb": 1, "threads": 1}
        for name, smallest in least.items():
            if getattr(self.limits, name) < smallest:
                raise ConfigError(f"sandbox.{name}: got {getattr(self.limits, name):g}", hint=f"{smallest:g} or more")
        self.workers = workers or len(os.sched_getaffinity(0))
        self.backend: Backend = backend
        self.replaced = 0
        """Zygotes that died and were started again."""
        self._all = [_Zygote(self) for _ in range(self.workers)]
        self._idle: queue.Queue[_Zygote] = queue.Queue()
        for zygote in self._all:
            self._idle.put(zygote)

    def run(self, code: str, stdin: str = "") -> Run:
        """Run a program with this standard input."""
        with self._one() as zygote:
            end, first, second = zygote.go("run", _framed(code) + stdin.encode(), b"", self.limits)
        return Run(_status(end, first), end["exit"], _text(first), _text(second), end["seconds"], end["cpu"])

    def check(
        self, code: str, tests: list[str], names: list[str], prelude: str = "", setup: str = ""
    ) -> Verdict:
        """Run `tests` (statements, usually asserts) against `names`, functions and classes that `code` defines.

        The tests, `prelude` (before the names exist) and `setup` (after) run in a process of their own. They see what
        the code's functions return as plain values; other objects only by handle.
        """
        held = json.dumps({"tests": tests, "names": names, "prelude": prelude, "setup": setup})
        with self._one() as zygote:
            end, first, second = zygote.go("check", _framed(code), _framed(held), self.limits)
        status = _status(end, first)
        try:
            verdict = json.loads(bytes(second))
        except ValueError:  # killed, or the tests' process itself went down
            verdict = {"passed": 0, "total": len(tests), "error": None}
            status = "killed" if status in ("ok", "error") else status
        else:
            status = "ok"
        passed = verdict["passed"]
        reason = verdict["error"] or ("passed" if status == "ok" and passed == len(tests) else _WORDS[status])
        return Verdict(status, passed, len(tests), reason, end["seconds"], end["cpu"])

    @contextlib.contextmanager
    def _one(self) -> Any:
        zygote = self._idle.get()
        try:
            yield zygote
        finally:
            self._idle.put(zygote)

    def close(self) -> None:
        """End all processes. They also end by themselves when this process does."""
        for zygote in self._all:
            zygote.stop()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


_WORDS = {"ok": "passed", "error": "failed", "timeout": "out of time", "output": "too much output",
          "killed": "killed (memory, a crash or a forbidden call)"}  # fmt: skip


class _Zygote:
    """One isolated process that forks runs; knows how to start it, feed it and see it dead."""

    def __init__(self, box: Sandbox) -> None:
        self.box = weakref.proxy(box)
        self.control: socket.socket | None = None
        self.backend = ""
        self._end: weakref.finalize[..., _Zygote] | None = None
        self._lock = threading.Lock()

    def go(self, do: str, first: bytes, second: bytes, limits: Limits) -> tuple[dict[str, Any], bytearray, bytearray]:
        """One run: (how it ended, what came back on each of its two streams).

        A zygote that died, for whatever reason, is replaced once and the run repeated; if that one dies as well, the
        run counts as killed.
        """
        with self._lock:
            result = self._try(do, [first, second], limits)
            if result[0] is _DEAD:
                self.box.replaced += 1
                result = self._try(do, [first, second], limits)
            if result[0] is _DEAD or result[0]["leaving"]:
                self.stop()
            return result

    def _try(self, do: str, to_send: list[bytes], limits: Limits) -> tuple[dict[str, Any], bytearray, bytearray]:
        self._ready()
        assert self.control
        ours, theirs = zip(socket.socketpair(), socket.socketpair(), strict=True)
        request = json.dumps({"do": do, "limits": limits.model_dump()}).encode()
        try:
            socket.send_fds(self.control, [request], [sock.fileno() for sock in theirs])
            for sock in theirs:
                sock.close()
            return self._attend([*ours], to_send, limits)
        except OSError:  # it died between two runs
            self.stop()
            return _DEAD, bytearray(), bytearray()
        finally:
            for sock in (*ours, *theirs):
                sock.close()

    def _attend(
        self, streams: list[socket.socket], to_send: list[bytes], limits: Limits
    ) -> tuple[dict[str, Any], bytearray, bytearray]:
        """Feed both streams and read both until the zygote reports the end."""
        assert self.control
        deadline, most = time.monotonic() + limits.wall_s + _GRACE_S, limits.output_kb << 10
        got, rest, over = [bytearray(), bytearray()], [memoryview(data) for data in to_send], False
        end: dict[str, Any] | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(self.control, selectors.EVENT_READ, None)
            for number, sock in enumerate(streams):
                sock.setblocking(False)
                if not rest[number]:
                    _shut(sock)
                both = selectors.EVENT_READ | (selectors.EVENT_WRITE if rest[number] else 0)
                selector.register(sock, both, number)
            while end is None or len(selector.get_map()) > 1:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    self.stop()
                    return _DEAD, got[0], got[1]
                for key, events in ready:
                    if key.data is None:
                        end = self._report()
                        selector.unregister(self.control)
                        if end is None:
                            self.stop()
                            return _DEAD, got[0], got[1]
                        continue
                    number, sock = key.data, streams[key.data]
                    if events & selectors.EVENT_WRITE:
                        rest[number] = rest[number][_send(sock, rest[number]) :]
                        if not rest[number]:
                            _shut(sock)
                            selector.modify(sock, selectors.EVENT_READ, number)
                    if events & selectors.EVENT_READ:
                        piece = _receive(sock)
                        if piece is None:
                            continue
                        if not piece:
                            selector.unregister(sock)
                        got[number] += piece[: max(0, most - len(got[number]))]
                        if len(got[number]) >= most and not over:
                            over = True
                            with contextlib.suppress(OSError):
                                self.control.send(b'{"do": "kill"}')
        return ({**end, "why": "output"} if over else end), got[0], got[1]

    def _report(self) -> dict[str, Any] | None:
        """The zygote's word on the run that ended; None where it is gone."""
        assert self.control
        try:
            report: dict[str, Any] = json.loads(self.control.recv(1 << 16))
        except (OSError, ValueError):
            return None
        return report

    def _ready(self) -> None:
        if self.control is None:
            process, control, self.backend = start(self.box.backend, self.box.limits.tmp_mb)
            control.settimeout(None)
            self.control = control
            self._end = weakref.finalize(self, _finish, process, control)

    def stop(self) -> None:
        """Kill it; process 1 of its namespace goes with it, and so does everything in there."""
        if self._end is not None:
            self._end()
        self.control = self._end = None


_DEAD: dict[str, Any] = {"why": "dead", "exit": -9, "seconds": 0.0, "cpu": 0.0, "leaving": True}


def _finish(process: subprocess.Popen[bytes], control: socket.socket) -> None:
    control.close()
    process.kill()
    process.wait()


def _framed(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return len(data).to_bytes(8, "big") + data


def _text(data: bytearray) -> str:
    return bytes(data).decode("utf-8", "replace")


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def _send(sock: socket.socket, data: memoryview) -> int:
    """Bytes sent; all of them where nobody reads any more."""
    try:
        return sock.send(data[: 1 << 16])
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)


def _receive(sock: socket.socket) -> bytes | None:
    """What is there; nothing at the end, None where nothing is there yet."""
    try:
        return sock.recv(1 << 16)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _status(end: dict[str, Any], output: bytearray) -> Status:
    if end["why"] in ("timeout", "output"):
        status: Status = end["why"]
        return status
    if end["why"] != "ended" or (end["exit"] or 0) < 0:
        return "killed"
    return "error" if end["exit"] else "ok"
