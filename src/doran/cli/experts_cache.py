"""`--experts-cache SIZE` of the verbs that use a model: routed experts stay on disk, SIZE of them in memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.device import available_memory
from doran.base.errors import OutOfMemory, UsageError

if TYPE_CHECKING:
    from doran.models.decoder import Decoder

ExpertsCache = Annotated[
    str | None,
    typer.Option(
        "--experts-cache",
        metavar="SIZE",
        help="For a model larger than memory: read experts from disk, keep SIZE of them, such as 8G.",
    ),
]
_FACTORS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(text: str, option: str = "--experts-cache") -> int:
    """Bytes from "8G", "512M" or "1.5 GiB": powers of 1024. UsageError where it is no size."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match or not float(match[1]):
        raise UsageError(f"{option}: {text!r} is not a size", hint="write a number and a unit, such as 512M or 8G")
    return int(float(match[1]) * _FACTORS[match[2].upper()])


def check_streaming(size: str | None, speculate: str) -> None:
    """UsageError: drafts are for the native runner, which does not read experts from disk."""
    if size is not None and speculate != "none":
        raise UsageError(f"--speculate {speculate} does not work with --experts-cache", hint="leave one of them out")


def open_streamed(folder: Path, dtype: str, size: str) -> Decoder:
    """The model of a folder with `size` for its experts. OutOfMemory, before anything is loaded, where what stays in
    memory and the cache do not fit together."""
    limit = parse_size(size)
    import torch

    from doran.models.streamed import load_streamed, resident_bytes

    resident, free = resident_bytes(folder, getattr(torch, dtype)), available_memory()
    if resident + limit > free:
        raise OutOfMemory(
            f"{folder}: {resident / 2**30:.1f} GiB stay in memory and {limit / 2**30:.1f} GiB are for experts, "
            f"{free / 2**30:.1f} GiB are free",
            hint="give a smaller --experts-cache" + ("" if dtype == "bfloat16" else ", or --dtype bfloat16"),
        )
    return load_streamed(folder, limit, getattr(torch, dtype))


def experts_report(model: Decoder) -> dict[str, Any]:
    """{"experts_cache": what the cache did}, empty for a model that is in memory whole."""
    cache = model.expert_cache
    if cache is None:
        return {}
    sizes = {"limit_bytes": cache.limit, "experts_held": cache.num_slots, "experts": cache.total}
    return {"experts_cache": sizes | {name: counts.as_dict() for name, counts in cache.work.items()}}
