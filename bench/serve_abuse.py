"""Malformed requests and streams cut at random against `doran serve`, and whether every slot and block comes back.

    python bench/serve_abuse.py --count 1000               # a server of its own, random weights
    python bench/serve_abuse.py --url http://127.0.0.1:8000 --name m

Half of the attempts are broken: flipped bytes, wrong types in any field, bodies shorter or longer than announced, no
HTTP at all. The other half are good requests on every endpoint whose line is cut after a random time or number of
bytes. Fails where an answer is a 5xx, where the server stops to answer, or where /metrics does not come back to what it
said before: free slots, free cache blocks, nothing pending.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

GAUGES = ("doran_free_slots", "doran_free_blocks", "doran_pending")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
ODD: tuple[Any, ...] = (None, True, -1, 0, 1e308, 10**30, "", "\x00", [], {}, [[]], "도란" * 99, {"a": {}}, [None])


def main() -> int:
    """Run, print one JSON object; 1 where something was wrong."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--url", default=None, help="a server that runs already, without /v1")
    made.add_argument("--name", default="load", help="its model's name")
    made.add_argument("--count", type=int, default=1000)
    made.add_argument("--threads", type=int, default=16, help="attempts at the same time")
    made.add_argument("--seed", type=int, default=0)
    args = made.parse_args()
    if args.url:
        return report(args.url, args)
    from serve_load import random_model, server

    with tempfile.TemporaryDirectory() as folder, server(random_model(Path(folder), "tiny-r1"), 64) as (url, _):
        return report(url.removesuffix("/v1"), args)


def report(url: str, args: argparse.Namespace) -> int:
    """Abuse the server and say how it went."""
    before = gauges(url)
    outcomes = abuse(url, args.name, args.count, args.threads, args.seed)
    after = settled(url, before)
    print(json.dumps({"attempts": args.count, "outcomes": dict(outcomes), "before": before, "after": after}))
    return int(after != before or any(outcome.startswith("5") for outcome in outcomes))


def abuse(url: str, name: str, count: int, threads: int = 16, seed: int = 0) -> Counter[str]:
    """Attempts by outcome: a status, "cut" by this client, "closed" by the server without an answer."""
    outcomes: Counter[str] = Counter()
    at = urlsplit(url)

    def work(first: int) -> None:
        for i in range(first, count, threads):
            rng = random.Random(f"{seed} {i}")
            outcomes[attempt((at.hostname or "", at.port or 80), rng, name)] += 1

    running = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return outcomes


def attempt(address: tuple[str, int], rng: random.Random, name: str) -> str:
    """One request, broken or cut."""
    path, body = good(rng, name)
    cut = rng.random() < 0.5
    sent = http(path, json.dumps(body).encode()) if cut else rng.choice(WAYS)(rng, path, body)
    try:
        with socket.create_connection(address, timeout=30) as line:
            if rng.random() < 0.1:
                sent = sent[: rng.randrange(len(sent))]
            line.sendall(sent)
            return leave_early(line, rng) if cut else answer(line)
    except OSError:
        return "closed"


def leave_early(line: socket.socket, rng: random.Random) -> str:
    """Read for a random time or number of bytes, then hang up, politely or not."""
    end, left = time.monotonic() + rng.random() ** 3 * 2, rng.randrange(1, 20_000)
    while left > 0 and (patience := end - time.monotonic()) > 0:
        line.settimeout(patience)
        try:
            got = line.recv(min(left, 4096))
        except TimeoutError:
            break
        if not got:
            return "ended"
        left -= len(got)
    if rng.random() < 0.5:  # a reset instead of a goodbye
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    return "cut"


def answer(line: socket.socket) -> str:
    """The status of whatever comes; this side says no more."""
    line.shutdown(socket.SHUT_WR)
    got = b""
    while len(got) < 12 and (more := line.recv(4096)):
        got += more
    return got[9:12].decode("ascii", "replace") if len(got) >= 12 else "closed"


def good(rng: random.Random, name: str) -> tuple[str, dict[str, Any]]:
    """A request that is in order, and long enough to be cut."""
    common: dict[str, Any] = {"model": name, "stream": rng.random() < 0.7}
    talk = {"messages": [{"role": "user", "content": "도란 3 + 4"}]}
    length = rng.randrange(20, 400)
    path = rng.choice(("chat/completions", "chat/completions", "completions", "responses", "messages"))
    if path == "completions":
        return path, {**common, "prompt": "3 + 4", "max_tokens": length, "n": rng.randrange(1, 4)}
    if path == "responses":
        return path, {**common, "input": "3 + 4", "max_output_tokens": length}
    if path == "messages":
        return path, {**common, **talk, "max_tokens": length}
    extra = rng.choice((
        {}, {"n": rng.randrange(1, 5)}, {"logprobs": True, "top_logprobs": 2}, {"tools": [TOOL]}, {"stop": ["7"]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}},
        {"thinking_token_budget": 10}, {"answer_language": "ko"}, {"cons_k": 3}, {"presence_penalty": 1.0},
    ))  # fmt: skip
    return path, {**common, **talk, "max_tokens": length, **extra}


def http(path: str, body: bytes, length: int | None = None) -> bytes:
    """A request as it goes over the line, with a true or a false length."""
    head = (f"POST /v1/{path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json",
            f"Content-Length: {len(body) if length is None else length}", "", "")  # fmt: skip
    return "\r\n".join(head).encode() + body


def flipped(rng: random.Random, path: str, body: dict[str, Any]) -> bytes:
    """Some bytes of the body are others."""
    raw = bytearray(json.dumps(body).encode())
    for _ in range(rng.randrange(1, 6)):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return http(path, bytes(raw))


def mistyped(rng: random.Random, path: str, body: dict[str, Any]) -> bytes:
    """A field, or a new one, holds what it must not."""
    known = [*body, "temperature", "top_p", "seed", "stop", "tools", "messages", "logit_bias", "nonsense"]
    return http(path, json.dumps({**body, rng.choice(known): rng.choice(ODD)}).encode())


def misfit(rng: random.Random, path: str, body: dict[str, Any]) -> bytes:
    """The body is shorter or longer than it says."""
    raw = json.dumps(body).encode()
    return http(path, raw, max(0, len(raw) + rng.choice((-len(raw), -9, -1, 1, 500))))


def nested(rng: random.Random, path: str, body: dict[str, Any]) -> bytes:
    """Deeper than any parser likes."""
    depth = rng.choice((99, 2_000, 100_000))
    return http(path, rng.choice((b"[", b'{"a":')) * depth)


def noise(rng: random.Random, path: str, body: dict[str, Any]) -> bytes:
    """No HTTP, or nearly none."""
    return rng.choice((
        rng.randbytes(rng.randrange(1, 900)), b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\n" * 50,
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"\r\n" * 100,
        b"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    ))  # fmt: skip


Way = Callable[[random.Random, str, dict[str, Any]], bytes]
WAYS: tuple[Way, ...] = (flipped, mistyped, mistyped, misfit, nested, noise)


def gauges(url: str) -> dict[str, float]:
    """What /metrics says of slots, blocks and waiting requests."""
    text = urllib.request.urlopen(f"{url}/metrics", timeout=30).read().decode()
    rows = (line.split() for line in text.splitlines() if line.startswith(GAUGES))
    return {name: float(value) for name, value in rows}


def settled(url: str, wanted: dict[str, float], seconds: float = 30.0) -> dict[str, float]:
    """The gauges once they are as before, or after so many seconds."""
    end = time.monotonic() + seconds
    while (now := gauges(url)) != wanted and time.monotonic() < end:
        time.sleep(0.1)
    return now


if __name__ == "__main__":
    sys.exit(main())
