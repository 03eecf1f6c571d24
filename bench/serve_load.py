"""Load on `doran serve` over loopback: clients that stream without pause, and the bare engine on the same requests.

Reports answers by status, time to first token and time per token (median and p99), tokens/s against the engine alone on
the same machine (before and after the server), the server's memory before, after the warm-up and at the end, and how
many cores server and clients took: the clients (serve_clients.py, a process of its own) live on the same cores.

    python bench/serve_load.py --model runs/latest --seconds 600
    python bench/serve_load.py --seconds 20                  # random weights in the shape of recipes/tiny-r1.yaml
    python bench/serve_load.py --shape qwen2-150m-int8       # a Qwen2 of 150M parameters, random weights, int8
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from serve_clients import question
from shared import RECIPE, shape

SHAPES = ("tiny-r1", "qwen2-150m-int8")


def main() -> int:
    """Run the load and print one JSON object; 1 where an answer was neither 200 nor 429."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", type=Path, default=None, help="model folder or run (default: random weights)")
    made.add_argument("--shape", choices=SHAPES, default=SHAPES[0], help="of the random weights")
    made.add_argument("--clients", type=int, default=64)
    made.add_argument("--seconds", type=float, default=30.0)
    made.add_argument("--warm-up", type=float, default=5.0)
    made.add_argument("--max-tokens", type=int, default=256)
    made.add_argument("--bare-answers", type=int, default=6, help="answers of the bare engine per client; 0: none")
    args = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or random_model(Path(folder), args.shape)
        bare = [engine_speed(model, args)] if args.bare_answers else []
        with server(model, args.clients) as (url, pid):
            found = clients(args, url, pid)
        bare += [engine_speed(model, args)] if args.bare_answers else []
    if bare:
        found["engine_tokens_per_second"] = [round(b) for b in bare]
        found["ratio"] = round(found["tokens_per_second"] * len(bare) / sum(bare), 3)
    print(json.dumps(found))
    return int(any(status not in ("200", "429") for status in found["answers"]))


def random_model(folder: Path, name: str) -> Path:
    """A shape with random weights and a small tokenizer."""
    from doran.arch.config import ModelConfig
    from doran.models.families import build
    from doran.models.quantize import quantize_folder
    from doran.models.weights import save_model
    from doran.text.tokenizer import train_bpe

    if name == "tiny-r1":
        config = shape(RECIPE, "deepseek_v3")
    else:
        config = ModelConfig(
            model_type="qwen2", vocab_size=8192, hidden_size=1024, intermediate_size=2816, num_hidden_layers=13,
            num_attention_heads=16, num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
        )  # fmt: skip
    plain = folder / "plain"
    save_model(build(config, seed=0), plain)
    train_bpe(["도란도란 이야기 think about 3 + 4 = 7"] * 4, config.vocab_size, whole_numbers_up_to=99).save(plain)
    if not name.endswith("int8"):
        return plain
    quantize_folder(plain, folder / "int8", "int8")
    return folder / "int8"


def engine_speed(model: Path, args: argparse.Namespace) -> float:
    """Tokens/s of the engine alone on as many requests at once, while all slots are in use."""
    from doran.cli.loading import model_folder, open_model
    from doran.engine import Engine, SamplingParams

    opened = open_model(model_folder(model))
    assert opened.tokenizer
    engine, rng, tokenizer = Engine(opened.model, max_batch=args.clients), random.Random(0), opened.tokenizer
    asked = [[{"role": "user", "content": question(rng)}] for _ in range(args.bare_answers * args.clients)]
    prompts = [tokenizer.encode_chat(messages) for messages in asked]
    base = SamplingParams(args.max_tokens, temperature=0.6, top_p=0.95, stop_token_ids=opened.stop_ids)
    params = [replace(base, seed=i) for i in range(len(prompts))]
    ends: list[tuple[float, int]] = []
    engine.generate(prompts, params, on_finish=lambda i, c: ends.append((time.perf_counter(), len(c.token_ids))))
    full = ends[args.clients : -args.clients]  # not the start, and not the end, where slots stay empty
    return sum(tokens for _, tokens in full) / (full[-1][0] - ends[args.clients - 1][0])


@contextmanager
def server(model: Path, slots: int, port: int = 0) -> Iterator[tuple[str, int]]:
    """A server of its own: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))
        port = free.getsockname()[1]
    options = {"model": model, "name": "load", "port": port, "max-batch": slots}
    command = [sys.executable, "-m", "doran.cli", "serve", *(f"--{key}={value}" for key, value in options.items())]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}/v1", process.pid
    finally:
        process.terminate()
        process.wait(60)


def wait_for(port: int, seconds: float = 120.0) -> None:
    """Until the server answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health").read()
            return
        except OSError:
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.1)


def clients(args: argparse.Namespace, url: str, pid: int) -> dict[str, Any]:
    """What serve_clients.py saw."""
    wanted = {"url": url, "pid": pid, "clients": args.clients, "seconds": args.seconds, "warm-up": args.warm_up}
    wanted["max-tokens"] = args.max_tokens
    script = Path(__file__).with_name("serve_clients.py")
    command = [sys.executable, str(script), *(f"--{key}={value}" for key, value in wanted.items())]
    out = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout
    return dict(json.loads(out))


if __name__ == "__main__":
    sys.exit(main())
