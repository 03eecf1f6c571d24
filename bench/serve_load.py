"""Load on `doran serve` over loopback: 64 clients that stream without pause, and the bare engine on the same requests.

Reports errors by status, time to first token and time between chunks (median and p99), tokens/s against the engine
alone on the same machine, and the server's memory at the start, after a tenth and at the end. The clients run in this
process and take their share of the CPU.

    python bench/serve_load.py --model runs/latest --seconds 600
    python bench/serve_load.py --seconds 20                      # random weights in the shape of recipes/tiny-r1.yaml
    python bench/serve_load.py --url http://127.0.0.1:8080/v1 --name m   # another server that speaks OpenAI's API
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shared import RECIPE, shape


def main() -> int:
    """Run the load and print one JSON object."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", type=Path, default=None, help="model folder or run (default: random weights)")
    made.add_argument("--url", default=None, help="a server that runs already; its name for the model in --name")
    made.add_argument("--name", default="load", help="the model's name for the server")
    made.add_argument("--clients", type=int, default=64)
    made.add_argument("--seconds", type=float, default=30.0)
    made.add_argument("--max-tokens", type=int, default=128)
    args = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or random_model(Path(folder))
        bare = None if args.url else engine_speed(model, args)
        with server(args, model) as (url, pid):
            found = asyncio.run(load(args, url, pid))
    if bare:
        found |= {"engine_tokens_per_second": round(bare), "ratio": round(found["tokens_per_second"] / bare, 3)}
    print(json.dumps(found))
    return int(any(status not in ("200", "429") for status in found["answers"]))


def random_model(folder: Path) -> Path:
    """The recipe's shape with random weights and a small tokenizer."""
    from doran.models.families import build
    from doran.models.weights import save_model
    from doran.text.tokenizer import train_bpe

    config = shape(RECIPE, "deepseek_v3")
    save_model(build(config, seed=0), folder)
    train_bpe(["도란도란 이야기 think about 3 + 4 = 7"] * 4, config.vocab_size, whole_numbers_up_to=99).save(folder)
    return folder


def question(rng: random.Random) -> str:
    """Some digits to think about."""
    return " + ".join(str(rng.randrange(1, 99)) for _ in range(rng.randrange(3, 9))) + " = ?"


def engine_speed(model: Path, args: argparse.Namespace) -> float:
    """Tokens/s of the engine alone, as many requests at once, for a few seconds."""
    from doran.cli.loading import model_folder, open_model
    from doran.engine import Engine, SamplingParams

    opened = open_model(model_folder(model))
    assert opened.tokenizer
    engine, rng, total, started = Engine(opened.model, max_batch=args.clients), random.Random(0), 0, 0.0
    for turn in range(4):  # the first one warms up
        asked = [[{"role": "user", "content": question(rng)}] for _ in range(4 * args.clients)]
        prompts = [opened.tokenizer.encode_chat(messages) for messages in asked]
        base = SamplingParams(args.max_tokens, temperature=0.6, top_p=0.95, stop_token_ids=opened.stop_ids)
        params = [replace(base, seed=i) for i in range(len(prompts))]
        started = started or (time.perf_counter() if turn else 0.0)
        made = engine.generate(prompts, params)
        total += sum(len(c.token_ids) for group in made for c in group) if turn else 0
    return total / (time.perf_counter() - started)


@contextmanager
def server(args: argparse.Namespace, model: Path) -> Iterator[tuple[str, int | None]]:
    """The address of a server and its process; started here unless --url names one."""
    if args.url:
        yield args.url, None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"model": model, "name": args.name, "port": port, "max-batch": args.clients}
    command = [sys.executable, "-m", "doran.cli", "serve", *(f"--{key}={value}" for key, value in options.items())]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1", process.pid
    finally:
        process.terminate()
        process.wait(60)


async def load(args: argparse.Namespace, url: str, pid: int | None) -> dict[str, Any]:
    """All clients until the time is over, and what they saw."""
    answers: Counter[str] = Counter()
    first, between, memory, tokens = [], [], [rss(pid)], [0]  # type: ignore[var-annotated]
    started = time.perf_counter()
    end = started + args.seconds

    async def client(number: int) -> None:
        rng = random.Random(number)
        while time.perf_counter() < end:
            try:
                status = await ask(url, args, rng, first, between, tokens)
            except (OSError, asyncio.IncompleteReadError) as error:
                status = type(error).__name__
            answers[status] += 1
            if status == "429":
                await asyncio.sleep(1)

    async def watch() -> None:
        await asyncio.sleep(args.seconds / 10)
        memory.append(rss(pid))

    await asyncio.gather(watch(), *(client(i) for i in range(args.clients)))
    elapsed = time.perf_counter() - started
    return {
        "clients": args.clients, "seconds": round(elapsed, 1), "answers": dict(answers),
        "first_token_ms": spread(first), "between_chunks_ms": spread(between),
        "tokens_per_second": round(tokens[0] / elapsed), "server_rss_mib": [*memory, rss(pid)],
    }  # fmt: skip


async def ask(url: str, args: argparse.Namespace, rng: random.Random, first: list, between: list, tokens: list) -> str:
    """One streamed answer over a plain socket (an HTTP library would cost more than the server)."""
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        body = json.dumps({
            "model": args.name, "messages": [{"role": "user", "content": question(rng)}], "max_tokens": args.max_tokens,
            "stream": True, "stream_options": {"include_usage": True}, "seed": rng.randrange(1 << 30),
            "temperature": 0.6, "top_p": 0.95,
        }).encode()  # fmt: skip
        head = (f"POST {at.path}/chat/completions HTTP/1.1", f"Host: {at.hostname}", "Content-Type: application/json",
                f"Content-Length: {len(body)}", "Connection: close", "", "")  # fmt: skip
        sent = last = time.perf_counter()
        writer.write("\r\n".join(head).encode() + body)
        first_line = (await reader.readline()).split()
        if len(first_line) < 2:
            raise ConnectionResetError
        status = first_line[1].decode()
        text = b""
        while chunk := await reader.read(65536):
            if b"data: " in chunk:
                now = time.perf_counter()
                (between if last > sent else first).append(now - last)
                last = now
            text = (text + chunk)[-4000:]
        if (usage := text.rfind(b'"completion_tokens":')) >= 0:
            tokens[0] += int(text[usage + 20 :].split(b",")[0])
        return status
    finally:
        writer.close()


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and p99, in milliseconds."""
    if len(seconds) < 2:
        return {}
    median, p99 = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
    return {"median": round(1e3 * median, 1), "p99": round(1e3 * p99, 1)}


def rss(pid: int | None) -> int | None:
    """Resident memory in MiB."""
    if pid is None:
        return None
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


if __name__ == "__main__":
    sys.exit(main())
