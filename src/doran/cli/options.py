"""Options that several verbs share, so that they are spelt and explained alike, and how verbs print data.

Use them as types: `def main(model: ModelDir, seed: Seed = 0, as_json: Json = False)`. No torch here.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from doran.base.errors import UsageError


def _budget(text: str | None) -> str | None:
    """As it is; UsageError where it is not understood, before anything is read or written."""
    if text is not None:
        from doran.plan.prices import parse_budget

        parse_budget(text)
    return text


ModelDir = Annotated[
    Path, typer.Option("--model", metavar="DIR", help="Model folder: config.json, *.safetensors, tokenizer.")
]
OutDir = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder to write; the same command continues what is there.")
]
TaskName = Annotated[
    str, typer.Option("--task", metavar="NAME", help="countdown, arithmetic, word_problems, gsm8k, jsonl or gym:NAME.")
]
DataFile = Annotated[
    Path | None,
    typer.Option("--data", metavar="FILE", help="Your data, JSONL or Parquet: prompt and answer, or messages."),
]
Limit = Annotated[
    str | None,
    typer.Option(
        "--budget", metavar="AMOUNT", callback=_budget,
        help='Stop cleanly at this cost (exit code 5), such as "2 hours" or "3000 KRW".',
    ),
]  # fmt: skip
RunsDir = Annotated[
    Path, typer.Option("--runs-dir", metavar="DIR", help="Where `doran run` keeps its runs.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="S", help="The same seed gives the same result.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout, for scripts.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, with sizes and times, and stop.")]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads; all cores unless given.")
]
Dtype = Annotated[str, typer.Option("--dtype", metavar="TYPE", help="float32 or bfloat16: how weights are held.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as train.lr=3e-4.", show_default=False),
]

DTYPES = ("float32", "bfloat16")


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on one line of stdout; NaN and infinity become null."""
    print(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False), flush=True)


def say(text: str) -> None:
    """A line for the person, on stderr, so that stdout stays data."""
    print(text, file=sys.stderr, flush=True)


def parse_token_ids(text: str) -> list[int]:
    """[1, 2, 3] from "1,2,3" (blanks allowed). UsageError names the part that is no token id."""
    ids = []
    for part in text.replace(",", " ").split():
        if not (part.isascii() and part.isdecimal()):
            raise UsageError(
                f"--prompt-ids: {part!r} is not a token id", hint="write whole numbers with commas, such as 1,2,3"
            )
        ids.append(int(part))
    if not ids:
        raise UsageError("--prompt-ids: no token id given", hint="write whole numbers with commas, such as 1,2,3")
    return ids


def use_threads(count: int | None) -> None:
    """Set torch's threads when the user gave a number."""
    if count is not None:
        from doran.base.device import set_threads

        set_threads(count)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
