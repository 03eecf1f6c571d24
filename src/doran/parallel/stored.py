"""The tensors of a checkpoint through torch.distributed.checkpoint, as safetensors: every process writes its parts.

What is written by some processes is read by others, however many and however they divide it: by one into whole tensors,
by two or eight into theirs. A single process's file reads the same way. Not here: when, where, whether it is intact
(train/checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from doran.parallel.parts import Like


def write(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """One safetensors file a process into `folder`, which all processes see. Collective. OSError: a full disk, say."""
    with _plain_errors():
        dcp.save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read(folder: Path, like: Like | None = None) -> dict[str, Tensor]:
    """The tensors in the folder's safetensors files. `like(name, shape)`: one to be filled, divided as it is to be;
    without it they come whole."""
    reader = HuggingFaceStorageReader(str(folder))
    tensors: dict[str, Tensor] = {}
    for name, meta in reader.read_metadata().state_dict_metadata.items():
        found = like(name, meta.size) if like else None  # type: ignore[union-attr]
        tensors[name] = torch.empty(meta.size, dtype=meta.properties.dtype) if found is None else found  # type: ignore[union-attr]
    with _plain_errors():
        dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    return tensors


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except CheckpointException as error:  # no Exception, and several lines long
        rank, (cause, _) = next(iter(error.failures.items()))
        raise OSError(f"process {rank}: {cause}") from error
