"""Opening a model folder for a verb: weights, tokenizer and the ids that end a reply. Nothing is trained or written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from doran.base.device import available_memory
from doran.base.errors import ArtifactError, OutOfMemory, UsageError, suggest
from doran.base.files import read_json
from doran.cli.experts_cache import open_streamed
from doran.cli.options import DTYPES

if TYPE_CHECKING:
    from doran.models.decoder import Decoder
    from doran.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Opened:
    """A model ready to use. `tokenizer` is None only where the folder holds none and the verb can do without."""

    model: Decoder
    tokenizer: Tokenizer | None
    stop_ids: tuple[int, ...]


def model_folder(path: Path) -> Path:
    """The model folder that `path` means: itself, a stage's `model/`, or the final model of a run. ArtifactError
    otherwise; for a run that is not that far it lists the models there are."""
    for folder in (path, path / "model", *path.glob("stages/*-rl-all/model")):
        if (folder / "config.json").is_file():
            return folder
    if not path.exists():
        raise ArtifactError(f"{path}: no such folder", hint="give a folder with config.json and *.safetensors")
    stages = sorted(str(found.parent) for found in path.glob("stages/*/model/config.json"))
    hint = f"choose one of: {', '.join(stages)}" if stages else "give a folder with config.json and *.safetensors"
    raise ArtifactError(f"{path}: not a model folder, it has no config.json", hint=hint)


def open_model(
    path: Path, dtype: str = "float32", need_tokenizer: bool = True, experts_cache: str | None = None
) -> Opened:
    """Load the folder at `path`; with `experts_cache` (a size) its routed experts stay on disk. UsageError: the dtype;
    ArtifactError: the files; OutOfMemory: before loading."""
    if dtype not in DTYPES:
        raise UsageError(f"--dtype: unknown type {dtype!r}", hint=suggest(dtype, DTYPES))
    if path.suffix == ".gguf" and path.is_file():
        if experts_cache is not None:
            raise UsageError(f"--experts-cache: {path} is a GGUF file", hint="give a folder with safetensors weights")
        return _open_gguf(path, dtype, need_tokenizer)
    folder = model_folder(path)
    if experts_cache is None:
        check_memory(folder, dtype)
    import torch

    from doran.models.weights import load_model
    from doran.text.tokenizer import Tokenizer

    has_tokenizer = any((folder / name).exists() for name in ("tokenizer.json", "vocab.json"))
    tokenizer = Tokenizer.load(folder) if need_tokenizer or has_tokenizer else None
    if experts_cache is None:
        model = load_model(folder, dtype=getattr(torch, dtype))
    else:
        model = open_streamed(folder, dtype, experts_cache)
    return Opened(model, tokenizer, tokenizer.stop_ids if tokenizer else declared_stop_ids(folder))


def _open_gguf(path: Path, dtype: str, need_tokenizer: bool) -> Opened:
    """A GGUF file: weights and tokenizer in one."""
    import torch

    from doran.formats.gguf import GGUFFile
    from doran.models.weights import load_model
    from doran.text.gguf import from_metadata

    metadata = GGUFFile(path).metadata
    found = need_tokenizer or "tokenizer.ggml.tokens" in metadata
    tokenizer = from_metadata(metadata, str(path)) if found else None
    ends = tokenizer.stop_ids if tokenizer else ()
    return Opened(load_model(path, dtype=getattr(torch, dtype)), tokenizer, ends)


def check_memory(folder: Path, dtype: str) -> None:
    """Refuse weights that cannot fit, before the machine starts to swap; a file's size tells the size in memory."""
    on_disk = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    config = read_json(folder / "config.json")
    stored = str(config.get("dtype") or config.get("torch_dtype"))
    needed = on_disk * (2 if dtype == "float32" and "16" in stored else 1)
    free = available_memory()
    if needed > free:
        raise OutOfMemory(
            f"{folder}: the weights need about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free",
            hint="use --dtype bfloat16, a smaller model, or --experts-cache where the model has experts",
        )


def declared_stop_ids(folder: Path) -> tuple[int, ...]:
    """End-of-text ids of a folder without tokenizer: generation_config.json's, else config.json's, else none."""
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            ids = read_json(folder / name).get("eos_token_id")
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()
