"""Checkpoints that survive kill -9, torn writes and a full disk: safetensors and JSON, never pickle.

    checkpoints/step_00000120/{tensors.safetensors, state.json, manifest.json}

Where weights are divided over processes (parallel/shards.py), each writes a file of its own in place of the one.

A checkpoint is written beside (`.writing-...`), fsynced, then renamed: a folder called `step_...` is complete or
damaged, never half-written. The manifest holds the SHA-256 of each file; `load_latest` checks it and falls back to the
one before.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from doran.base.errors import ArtifactError, DoranError
from doran.base.files import sha256_file
from doran.parallel.parts import Like
from doran.parallel.world import SOLO, World

KEEP = 2
_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """One loaded checkpoint: tensors by name, JSON state, and the step after which it was taken."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors named `prefix/...`, without the prefix."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(prefix + "/")}


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int = KEEP,
    world: World = SOLO,
) -> Path:
    """Write `folder/step_N` and drop all but the newest `keep`. A failure is a DoranError; the earlier ones stay.

    Collective in a world of several processes; where they hold the same tensors, the first writes them.
    """
    final, beside = folder / f"step_{step:08d}", folder / f".writing-{step:08d}"
    with _errors(folder, step, beside):
        world.once(lambda: _empty_folder(beside))
        if world.shards:
            from doran.parallel import stored

            stored.write(tensors, beside)
        elif world.first:
            save_file({name: t.detach().contiguous() for name, t in tensors.items()}, beside / _TENSORS)
        world.once(lambda: _complete(beside, final, {"step": step, **state}))
    for old in steps(folder)[:-keep] if world.first else []:
        shutil.rmtree(folder / f"step_{old:08d}", ignore_errors=True)
    return final


def _empty_folder(beside: Path) -> None:
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)


def _complete(beside: Path, final: Path, state: Mapping[str, Any]) -> None:
    """State and manifest beside the tensors, everything onto the disk, and the name that says so."""
    (beside / _STATE).write_text(json.dumps(state), encoding="utf-8")
    names = [*sorted(path.name for path in beside.glob("*.safetensors")), _STATE]
    (beside / _MANIFEST).write_text(json.dumps({n: sha256_file(beside / n) for n in names}), encoding="utf-8")
    for name in (*names, _MANIFEST):
        _fsync(beside / name)
    _fsync(beside)
    if final.exists():
        shutil.rmtree(final)
    os.rename(beside, final)
    _fsync(final.parent)


@contextmanager
def _errors(folder: Path, step: int, beside: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise DoranError(
            f"cannot write the checkpoint of step {step} in {folder}: {error}",
            hint="free some disk space and run the same command again; earlier checkpoints are untouched",
        ) from error


def steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint folder, oldest first."""
    return sorted(int(p.name[5:]) for p in folder.glob("step_*") if p.name[5:].isdigit())


def load_latest(folder: Path, like: Like | None = None) -> Checkpoint | None:
    """The newest checkpoint that verifies; None if there never was one. ArtifactError if all are damaged.

    `like(name, shape)`: a tensor divided as that one is to be, to read only what this process holds; collective.

    What a killed writer left beside is removed. Damage is said on stderr.
    """
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    found = steps(folder)
    for step in reversed(found):
        try:
            return load(folder / f"step_{step:08d}", like)
        except ArtifactError as error:
            print(f"warning: {error}; trying the one before", file=sys.stderr)
    if found:
        raise ArtifactError(f"no checkpoint in {folder} is intact", hint="delete that folder to start from step 0")
    return None


def load(path: Path, like: Like | None = None) -> Checkpoint:
    """Read one checkpoint folder and verify it. ArtifactError when a file is missing or its hash differs."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        if len(manifest) < 2 or _STATE not in manifest:
            raise ArtifactError(f"checkpoint {path} is damaged: {_MANIFEST} does not name its files")
        for name, digest in manifest.items():
            if sha256_file(path / name) != digest:
                raise ArtifactError(f"checkpoint {path} is damaged: {name} is not what was written")
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        if like is None and _TENSORS in manifest:
            tensors = load_file(path / _TENSORS)
        else:
            from doran.parallel import stored

            tensors = stored.read(path, like)
        return Checkpoint(state.pop("step"), tensors, state)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(f"checkpoint {path} is damaged: {error}") from error


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
