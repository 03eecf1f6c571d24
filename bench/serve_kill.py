"""`doran serve` killed and started again under load: what its clients get, and that nothing half-written stays.

    python bench/serve_kill.py --kills 10

Threads ask through the real `openai` client, streamed and whole, each question with a seed of its own. The server is
killed (SIGKILL) at random moments and started again on the same port. An answer counts as whole only if the client
raised nothing, and then its text must be the one that an undisturbed server gives; anything else must be an error that
the client raises (openai.APIError, httpx.TransportError), and asking again must give that text. The folder that the
server runs in and the model's folder must hold the same bytes at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from serve_load import random_model, wait_for


class Server:
    """A server process on a port of its own, which can be killed and started again."""

    def __init__(self, model: Path, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [sys.executable, "-m", "doran.cli", "serve", f"--model={model.resolve()}", "--name=load",
                        f"--port={self.port}", "--max-batch=16"]  # fmt: skip
        self.folder = folder
        self.start()

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL, cwd=self.folder)
        wait_for(self.port)

    def kill(self) -> None:
        """As the kernel's out-of-memory killer does it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def main() -> int:
    """Run, print one JSON object; 1 where something was wrong."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--kills", type=int, default=5)
    made.add_argument("--clients", type=int, default=8)
    made.add_argument("--every", type=float, default=4.0, help="seconds between a start and the next kill, at most")
    made.add_argument("--max-tokens", type=int, default=400)
    args = made.parse_args()
    sys.path = [os.path.abspath(p) for p in sys.path]
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    with tempfile.TemporaryDirectory() as made_here:
        folder = Path(made_here)
        model, run = random_model(folder / "model", "tiny-r1"), folder / "run"
        run.mkdir()
        before = contents(folder)
        found = ordeal(Server(model, run), args)
        found["files_changed"] = sorted(contents(folder) ^ before)
    print(json.dumps(found))
    return int(bool(found["wrong"] or found["files_changed"] or not found["errors"]))


def ordeal(server: Server, args: argparse.Namespace) -> dict[str, Any]:
    """Kill and restart while clients ask."""
    url, stop, lock = f"http://127.0.0.1:{server.port}/v1", threading.Event(), threading.Lock()
    expected = {seed: ask(url, seed, args.max_tokens, False) for seed in range(8)}
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []

    def client(number: int) -> None:
        rng = random.Random(number)
        while not stop.is_set():
            seed, stream = rng.randrange(8), rng.random() < 0.7
            outcome, text = tried(url, seed, args.max_tokens, stream)
            with lock:
                outcomes[outcome] += 1
                if outcome == "whole" and text != expected[seed]:
                    wrong.append(f"seed {seed}, stream {stream}: {text[:60]!r}")
            if outcome != "whole":
                time.sleep(0.2)

    running = [threading.Thread(target=client, args=(i,)) for i in range(args.clients)]
    for thread in running:
        thread.start()
    rng, starts = random.Random(0), []
    for _ in range(args.kills):
        time.sleep(0.5 + rng.random() * args.every)
        server.kill()
        began = time.monotonic()
        server.start()
        starts.append(time.monotonic() - began)
    time.sleep(1)
    stop.set()
    for thread in running:
        thread.join()
    again = {seed: ask(url, seed, args.max_tokens, True) for seed in range(8)}
    wrong += [f"after the last start, seed {seed}" for seed in expected if again[seed] != expected[seed]]
    server.process.terminate()
    server.process.wait(60)
    whole = outcomes.pop("whole", 0)
    return {"kills": args.kills, "whole": whole, "errors": dict(outcomes), "wrong": wrong,
            "restart_seconds": round(max(starts), 1)}  # fmt: skip


def ask(url: str, seed: int, max_tokens: int, stream: bool) -> str:
    """One answer's text through the openai client, which retries nothing here."""
    import openai

    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)
    question = [{"role": "user", "content": f"{seed} + {seed}"}]
    got = client.chat.completions.create(  # type: ignore[call-overload]
        model="load", messages=question, seed=seed, max_tokens=max_tokens, stream=stream
    )
    if not stream:
        message = got.choices[0].message
        return (getattr(message, "reasoning", None) or "") + (message.content or "")
    thought, answer, ended = "", "", False  # apart: random weights may think in the middle of an answer
    for chunk in got:
        for choice in chunk.choices:
            thought += getattr(choice.delta, "reasoning", None) or ""
            answer += choice.delta.content or ""
            ended = ended or choice.finish_reason is not None
    if not ended:
        raise EOFError("the stream ended without a finish_reason")  # what a client takes for whole, and is not
    return thought + answer


def tried(url: str, seed: int, max_tokens: int, stream: bool) -> tuple[str, str]:
    """("whole", text), or the name of the error that the client raised."""
    import httpx
    import openai

    try:
        return "whole", ask(url, seed, max_tokens, stream)
    except (openai.APIError, httpx.TransportError) as error:
        return type(error).__name__, ""


def contents(folder: Path) -> set[str]:
    """Every file below, with its hash."""
    files = (f for f in folder.rglob("*") if f.is_file())
    return {f"{f.relative_to(folder)} {hashlib.sha256(f.read_bytes()).hexdigest()[:16]}" for f in files}


if __name__ == "__main__":
    sys.exit(main())
