"""`doran chat`: talk with a model in the terminal. The conversation itself is serve/terminal.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from doran.base.errors import ArtifactError, UsageError
from doran.cli.asking import check_choice
from doran.cli.experts_cache import ExpertsCache, check_streaming
from doran.cli.loading import model_folder, open_model
from doran.cli.options import Dtype, RunsDir, Seed, Threads, use_threads
from doran.cli.speculating import DraftTokens, Speculate, speculation

LANGS = ("en", "ko")


def main(
    model: Annotated[
        Path | None, typer.Option("--model", metavar="DIR", help="Model folder or run; the latest run unless given.")
    ] = None,
    lang: Annotated[str, typer.Option("--lang", metavar="LANG", help="en or ko: what doran itself says.")] = "en",
    temperature: Annotated[float, typer.Option("--temperature", metavar="T", help="0 is always the likeliest.")] = 0.6,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", help="Longest reply, its thought included.")
    ] = 4096,
    seed: Seed = 0,
    runs_dir: RunsDir = Path("runs"),
    dtype: Dtype = "float32",
    experts_cache: ExpertsCache = None,
    speculate: Speculate = "none",
    draft_tokens: DraftTokens = 2,
    threads: Threads = None,
) -> None:
    """Talk with a model. Its thoughts run dimmed and fold into one line; /help lists commands, /quit leaves.

    Without --model it is the final model of the latest run. From a pipe, each line of stdin is a question and only
    answers go to stdout.

    Example: doran chat --model runs/latest --lang ko
    """
    check_choice("--lang", lang, LANGS)
    from doran.engine.request import SamplingParams

    params = SamplingParams(max_new_tokens, temperature=temperature, seed=seed)
    ahead = speculation(speculate, draft_tokens)
    check_streaming(experts_cache, speculate)
    folder = model_folder(model) if model is not None else latest(runs_dir)
    use_threads(threads)
    opened = open_model(folder, dtype, experts_cache=experts_cache)
    assert opened.tokenizer is not None
    if opened.tokenizer.chat_template is None:
        raise UsageError(f"{folder}: this model has no chat template", hint="use doran generate --raw to continue text")
    from dataclasses import replace

    from doran.engine.engine import Engine
    from doran.serve.terminal import chat

    chat(
        folder,
        engine=Engine(opened.model, max_batch=1, speculation=ahead),
        tokenizer=opened.tokenizer,
        params=replace(params, stop_token_ids=opened.stop_ids),
        lang="ko" if lang == "ko" else "en",
    )


def latest(runs_dir: Path) -> Path:
    """The final model of the latest run. ArtifactError where there is none yet."""
    run = runs_dir / "latest"
    if not run.exists():
        raise ArtifactError(
            f"{run}: there is no run yet", hint="give --model DIR, or make one: doran run recipes/tiny-r1.yaml"
        )
    return model_folder(run)
