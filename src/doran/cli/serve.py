"""`doran serve`: a model behind OpenAI's and Anthropic's APIs. The server itself is serve/app.py."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from doran.base.errors import UsageError
from doran.cli.experts_cache import ExpertsCache, check_streaming
from doran.cli.loading import model_folder, open_model
from doran.cli.options import Dtype, RunsDir, Threads, say, use_threads
from doran.cli.speculating import DraftTokens, Speculate, speculation


def main(
    model: Annotated[
        Path | None, typer.Option("--model", metavar="DIR", help="Model folder or run; the latest run unless given.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Its name for clients; the folder's unless given.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDR", help="Address to listen on; any but 127.0.0.1 needs --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes a free one.")] = 8000,
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="FILE", help="Hashes of API keys; requests need one of them then.")
    ] = None,
    new_key: Annotated[
        str | None, typer.Option("--new-key", metavar="NAME", help="Add a key to --keys, print it once, and stop.")
    ] = None,
    max_batch: Annotated[int, typer.Option("--max-batch", metavar="N", min=1, help="Most replies made at once.")] = 64,
    max_queue: Annotated[int, typer.Option("--max-queue", metavar="N", min=0, help="Most that wait; then 429.")] = 256,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", min=1, help="Longest reply unless a request says.")
    ] = 4096,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", min=0.0, help="Unless a request says.")
    ] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p", metavar="P", help="Unless a request says.")] = 0.95,
    reasoning_field: Annotated[
        str, typer.Option("--reasoning-field", metavar="NAME", help="For thoughts: reasoning_content, reasoning, both.")
    ] = "both",
    request_seconds: Annotated[
        float, typer.Option("--request-seconds", metavar="S", help="Longest time for one reply.")
    ] = 600.0,
    price_input: Annotated[
        float | None, typer.Option("--price-input", metavar="P", help="Per million prompt tokens, for usage.cost.")
    ] = None,
    price_output: Annotated[
        float | None, typer.Option("--price-output", metavar="P", help="Per million new tokens; allows max_cost.")
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option("--cors", metavar="ORIGIN", help="Web origin that may ask; none unless given.")
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write what was asked into the log.")] = False,
    runs_dir: RunsDir = Path("runs"),
    dtype: Dtype = "float32",
    experts_cache: ExpertsCache = None,
    speculate: Speculate = "none",
    draft_tokens: DraftTokens = 2,
    threads: Threads = None,
) -> None:
    """Serve a model over HTTP, with OpenAI's and Anthropic's APIs, thoughts apart from answers.

    Without --model it is the final model of the latest run. It listens on this machine only, unless you make a key.

    Example: doran serve --model runs/latest --port 8000
    """
    from doran.base.config import build
    from doran.serve.security import check_bind, read_keys
    from doran.serve.security import new_key as make_key
    from doran.serve.settings import ServeSettings

    if new_key is not None:
        if keys is None:
            raise UsageError("--new-key needs --keys FILE", hint="the file keeps the key's hash")
        print(make_key(keys, new_key))
        return
    known = read_keys(keys) if keys else {}
    check_bind(host, list(known))
    from doran.cli.chat import latest

    folder = model_folder(model) if model is not None else latest(runs_dir)
    given = {
        "name": name or _name_of(folder), "host": host, "port": port, "reasoning_field": reasoning_field,
        "max_queue": max_queue, "max_tokens_default": max_tokens, "temperature": temperature, "top_p": top_p,
        "request_seconds": request_seconds, "log_prompts": log_prompts, "cors_origins": list(cors or ()),
        "price_input": price_input, "price_output": price_output,
    }  # fmt: skip
    settings = build(ServeSettings, given, where="options")
    ahead = speculation(speculate, draft_tokens)
    check_streaming(experts_cache, speculate)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    use_threads(threads)
    opened = open_model(folder, dtype, experts_cache=experts_cache)
    assert opened.tokenizer is not None
    import uvicorn

    from doran.engine.engine import Engine
    from doran.serve.app import create_app
    from doran.serve.generation import Service

    engine = Engine(opened.model, max_batch=max_batch, speculation=ahead)
    service = Service(engine, opened.tokenizer, opened.stop_ids, settings)
    say(f"{settings.name} on http://{host}:{port}   (Ctrl-C stops it)")
    uvicorn.run(
        create_app(service, known), host=host, port=port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=int(settings.shutdown_seconds) + 1, server_header=False,
    )  # fmt: skip


def _name_of(folder: Path) -> str:
    """What people call the model: its folder's name, its run's where the folder is just `model`."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "model" else folder.name
