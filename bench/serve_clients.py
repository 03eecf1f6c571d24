"""Clients that stream from a chat server without pause, as cheap as Python can: one process, plain sockets, kept open.

Started by serve_load.py, or alone against a server that runs:

    python bench/serve_clients.py --url http://127.0.0.1:8080/v1 --name m --clients 64 --seconds 60

A client asks again as soon as its answer is complete; complete means status 200, a usage, `[DONE]` and the end of the
body. Tokens count within the time after the warm-up only, an answer that reaches beyond it by its share. One JSON
object on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

END_OF_BODY = b"0\r\n\r\n"  # of chunked transfer


def options() -> argparse.ArgumentParser:
    """What serve_load.py passes on."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--url", required=True, help="base URL, with /v1")
    made.add_argument("--name", default="load", help="the model's name for the server")
    made.add_argument("--clients", type=int, default=64)
    made.add_argument("--seconds", type=float, default=30.0, help="of the measurement, behind the warm-up")
    made.add_argument("--warm-up", type=float, default=5.0)
    made.add_argument("--max-tokens", type=int, default=256)
    made.add_argument("--pid", type=int, default=None, help="the server's process: its memory and CPU are noted")
    made.add_argument("--retry", type=float, default=1.0, help="seconds a client waits behind a 429 or a lost line")
    return made


def question(rng: random.Random) -> str:
    """Some digits to think about."""
    return " + ".join(str(rng.randrange(1, 99)) for _ in range(rng.randrange(3, 9))) + " = ?"


class Load:
    """What all clients share: the request, the clock, the figures."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.at = args, urlsplit(args.url)
        self.start = time.perf_counter() + args.warm_up
        self.end = self.start + args.seconds
        self.answers: Counter[str] = Counter()
        self.first: list[float] = []  # seconds from the request to the first event
        self.gaps: list[float] = []  # between two arrivals
        self.paces: list[float] = []  # seconds a token, of whole answers, behind the first event
        self.tokens = 0.0
        self.left = asyncio.get_running_loop().create_future()
        self.running = args.clients

    def request(self, rng: random.Random) -> bytes:
        """One request as it goes over the line."""
        a = self.args
        body = json.dumps({
            "model": a.name, "messages": [{"role": "user", "content": question(rng)}], "max_tokens": a.max_tokens,
            "stream": True, "stream_options": {"include_usage": True}, "seed": rng.randrange(1 << 30),
            "temperature": 0.6, "top_p": 0.95,
        }).encode()  # fmt: skip
        head = (f"POST {self.at.path}/chat/completions HTTP/1.1", f"Host: {self.at.hostname}",
                "Content-Type: application/json", f"Content-Length: {len(body)}", "", "")  # fmt: skip
        return "\r\n".join(head).encode() + body

    def complete(self, sent: float, first: float, tokens: int) -> None:
        """Count an answer's tokens, as far as they fell into the time."""
        now = time.perf_counter()
        share = (min(now, self.end) - max(sent, self.start)) / (now - sent)
        self.tokens += tokens * max(0.0, share)
        if tokens > 1 and first > self.start:
            self.paces.append((now - first) / (tokens - 1))

    def leave(self) -> None:
        """A client's time is over."""
        self.running -= 1
        if self.running == 0:
            self.left.set_result(None)


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, load: Load, number: int) -> None:
        self.load, self.rng = load, random.Random(number)
        self.waiting, self.tail, self.head = False, b"", b""
        self.sent = self.first = self.last = 0.0
        self.transport: Any = None

    async def connect(self) -> None:
        """Open the line; again and again where nobody answers, until the time is over."""
        at = self.load.at
        while time.perf_counter() < self.load.end:
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, at.hostname, at.port)
                return
            except OSError as error:
                self.load.answers[type(error).__name__] += 1
                await asyncio.sleep(self.load.args.retry)
        self.load.leave()

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Send a request, or leave."""
        self.sent = self.last = time.perf_counter()
        if self.sent >= self.load.end or self.transport.is_closing():
            self.transport.close()
            return
        self.waiting, self.tail, self.head, self.first = True, b"", b"", 0.0
        self.transport.write(self.load.request(self.rng))

    def data_received(self, data: bytes) -> None:
        """Note the time, keep the end."""
        now = time.perf_counter()
        if not self.head:
            self.head = data[:12]
        if b"data: " in data:
            if self.sent > self.load.start:
                (self.load.gaps if self.first else self.load.first).append(now - self.last)
            self.first, self.last = self.first or now, now
        self.tail = (self.tail + data)[-800:]
        status = self.head[9:12].decode()
        if status != "200":
            self.over(status, self.load.args.retry)
        elif self.tail.endswith(END_OF_BODY):
            at = self.tail.rfind(b'"completion_tokens":')
            whole = at >= 0 and b"data: [DONE]" in self.tail
            if whole:
                self.load.complete(self.sent, self.first, int(self.tail[at + 20 :].split(b",")[0]))
            self.over("200" if whole else "200, cut by an error", 0.0)

    def over(self, status: str, pause: float) -> None:
        """An answer has come; the next request."""
        self.waiting = False
        self.load.answers[status] += 1
        if pause:
            asyncio.get_running_loop().call_later(pause, self.ask)
        else:
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        """The server, or this client, has closed the line."""
        if self.waiting:
            self.load.answers["line lost within an answer" if self.head else "line lost before an answer"] += 1
            self.waiting = False
        if time.perf_counter() < self.load.end:
            asyncio.get_running_loop().call_later(
                self.load.args.retry, lambda: asyncio.ensure_future(self.connect()) and None
            )
        else:
            self.load.leave()


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """All clients until the time is over, and what they saw."""
    load, memory, cpu = Load(args), [rss(args.pid)], []

    async def watch() -> None:
        await asyncio.sleep(args.warm_up)
        memory.append(rss(args.pid))
        cpu.append((time.process_time(), server_cpu(args.pid)))
        await asyncio.sleep(args.seconds)
        cpu.append((time.process_time(), server_cpu(args.pid)))

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        for i in range(args.clients):
            group.create_task(Client(load, i).connect())
        await load.left
    own, server = ((cpu[1][i] - cpu[0][i]) / args.seconds for i in (0, 1))
    return {
        "clients": args.clients, "seconds": args.seconds, "max_tokens": args.max_tokens, "answers": dict(load.answers),
        "tokens_per_second": round(load.tokens / args.seconds), "first_token_ms": spread(load.first),
        "per_token_ms": spread(load.paces), "between_arrivals_ms": spread(load.gaps),
        "cores_of_clients": round(own, 2), "cores_of_server": round(server, 2),
        "server_rss_mib": [*memory, rss(args.pid)],
    }  # fmt: skip


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and p99, in milliseconds."""
    if len(seconds) < 2:
        return {}
    median, p99 = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
    return {"median": round(1e3 * median, 2), "p99": round(1e3 * p99, 2)}


def rss(pid: int | None) -> int | None:
    """Resident memory in MiB; None where there is no such process."""
    with suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) if pid else 0
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20
    return None


def server_cpu(pid: int | None) -> float:
    """CPU seconds a process has used."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() if pid else ["0"] * 13
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def main() -> int:
    """Print one JSON object; 1 where an answer was neither 200 nor 429."""
    args = options().parse_args()
    found = asyncio.run(run(args))
    print(json.dumps(found))
    return int(any(status not in ("200", "429") for status in found["answers"]))


if __name__ == "__main__":
    with suppress(ImportError):
        import uvloop

        uvloop.install()
    sys.exit(main())
