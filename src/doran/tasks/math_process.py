"""Worker processes that compare mathematics, and the pool that times and kills them (parent's side).

Not here: the comparison (math_worker.py, which runs alone in the child). A worker that is late, dies or runs out of
memory is killed and replaced at the next need; the answer it was asked about scores nothing.
"""

from __future__ import annotations

import contextlib
import json
import queue
import selectors
import subprocess
import sys
import time
import weakref
from pathlib import Path

START_TIMEOUT_S = 60.0
"""Loading sympy takes a second or two, more on a busy machine; the limit per comparison does not include it."""

_WORKER = Path(__file__).with_name("math_worker.py")


class WorkerFailed(Exception):
    """The worker was killed or died; the message says why."""


class Worker:
    """One child process, started when first asked. Another kind of work is a subclass with a `command` of its own."""

    what = "the comparison"
    stderr: int | None = subprocess.DEVNULL

    def __init__(self, timeout_s: float, memory_mb: int) -> None:
        self.timeout_s, self.memory_mb = timeout_s, memory_mb
        self.process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Worker] | None = None
        self._greeting: dict[str, object] = {}

    def command(self) -> list[str]:
        """What to run; it says ready (or why not: {"refused": ...}), then answers a line with a line."""
        # -P: the folder of this file holds a math.py, which must not stand in for Python's own
        return [sys.executable, "-P", str(_WORKER), str(self.memory_mb)]

    def begin(self) -> dict[str, object]:
        """Start it, if need be, and return what it said when it was ready. Raises WorkerFailed."""
        self._running()
        return self._greeting

    def ask(self, request: object) -> dict[str, object]:
        """Send one request and wait for its reply. Raises WorkerFailed."""
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            self.stop()
            raise WorkerFailed(f"{self.what} died") from None
        return self._reply(process, self.timeout_s)

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr
            )
            self._end = weakref.finalize(self, _kill, self.process)  # also at exit, or when nobody holds the pool
            process = self.process
            self._greeting = self._reply(process, START_TIMEOUT_S)
            if "refused" in self._greeting:
                self.stop()
                raise WorkerFailed(str(self._greeting["refused"]))
            return process
        return self.process

    def _reply(self, process: subprocess.Popen[bytes], timeout_s: float) -> dict[str, object]:
        assert process.stdout is not None
        deadline, line = time.monotonic() + timeout_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.stop()
                    raise WorkerFailed(f"no result within {timeout_s:g} s")
                piece = process.stdout.read1(4096)  # type: ignore[attr-defined]
                if not piece:
                    self.stop()
                    raise WorkerFailed(f"{self.what} died, most likely for memory")
                line += piece
        reply: dict[str, object] = json.loads(line)
        return reply

    def stop(self) -> None:
        """Kill the process if there is one."""
        if self._end is not None:
            self._end()
        self.process = self._end = None


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):  # a request that was never read
                pipe.close()


class Workers:
    """A pool: at most `count` comparisons at a time, from any thread."""

    def __init__(self, count: int, timeout_s: float, memory_mb: int) -> None:
        self.all = [Worker(timeout_s, memory_mb) for _ in range(count)]
        self.idle: queue.Queue[Worker] = queue.Queue()
        for worker in self.all:
            self.idle.put(worker)

    def equal(self, gold: str, answer: str) -> tuple[bool, str]:
        """Whether two pieces of mathematics are equal, and the reason."""
        worker = self.idle.get()
        try:
            reply = worker.ask({"gold": gold, "answer": answer})
        except WorkerFailed as failure:
            return False, str(failure)
        finally:
            self.idle.put(worker)
        return bool(reply.get("equal")), str(reply.get("reason", "differs"))

    def close(self) -> None:
        for worker in self.all:
            worker.stop()
