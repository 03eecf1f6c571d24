"""Checkpoints that survive kill -9, torn writes and a full disk: safetensors and JSON, never pickle.

    checkpoints/step_00000120/{tensors.safetensors, state.json, manifest.json}

A checkpoint is written beside (`.writing-...`), fsynced, then renamed: a folder called `step_...` is complete or
damaged, never half-written. The manifest holds the SHA-256 of each file; `load_latest` checks it and falls back to the
one before.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from doran.base.errors import ArtifactError, DoranError
from doran.base.files import sha256_file

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


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = KEEP) -> Path:
    """Write `folder/step_N` and drop all but the newest `keep`. A failure is a DoranError; the earlier ones stay."""
    final, beside = folder / f"step_{step:08d}", folder / f".writing-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, beside / _TENSORS)
        (beside / _STATE).write_text(json.dumps({"step": step, **state}), encoding="utf-8")
        manifest = {name: sha256_file(beside / name) for name in (_TENSORS, _STATE)}
        (beside / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        for name in (_TENSORS, _STATE, _MANIFEST):
            _fsync(beside / name)
        _fsync(beside)
        if final.exists():
            shutil.rmtree(final)
        os.rename(beside, final)
        _fsync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise DoranError(
            f"cannot write the checkpoint of step {step} in {folder}: {error}",
            hint="free some disk space and run the same command again; earlier checkpoints are untouched",
        ) from error
    for old in steps(folder)[:-keep]:
        shutil.rmtree(folder / f"step_{old:08d}", ignore_errors=True)
    return final


def steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint folder, oldest first."""
    return sorted(int(p.name[5:]) for p in folder.glob("step_*") if p.name[5:].isdigit())


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that verifies; None if there never was one. ArtifactError if all are damaged.

    What a killed writer left beside is removed. Damage is said on stderr.
    """
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    found = steps(folder)
    for step in reversed(found):
        try:
            return load(folder / f"step_{step:08d}")
        except ArtifactError as error:
            print(f"warning: {error}; trying the one before", file=sys.stderr)
    if found:
        raise ArtifactError(f"no checkpoint in {folder} is intact", hint="delete that folder to start from step 0")
    return None


def load(path: Path) -> Checkpoint:
    """Read one checkpoint folder and verify it. ArtifactError when a file is missing or its hash differs."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        for name in (_TENSORS, _STATE):
            if sha256_file(path / name) != manifest[name]:
                raise ArtifactError(f"checkpoint {path} is damaged: {name} is not what was written")
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        return Checkpoint(state.pop("step"), load_file(path / _TENSORS), state)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(f"checkpoint {path} is damaged: {error}") from error


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
