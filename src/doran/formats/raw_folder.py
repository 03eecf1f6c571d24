"""A safetensors folder read by position: each tensor by its own `pread`, into memory of the caller's choosing.

The face of `TensorFolder` without its maps and checksums. A map's touched pages count as this process's memory, and a
checksum reads every byte before the first token: both are wrong for weights larger than memory. Headers are checked
(offsets, sizes, overlaps with the end of the file), bytes are not.
"""

from __future__ import annotations

import json
import math
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from doran.base.errors import ArtifactError
from doran.formats.safetensors_folder import AGAIN, DTYPES, INDEX, SINGLE, listed_files

_TYPES = {word: dtype for dtype, word in DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # bytes, safetensors' own limit


@dataclass(frozen=True)
class Span:
    """Where a tensor lies: `size` bytes from byte `start` of a file."""

    file: str
    start: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class RawFolder:
    """The tensors of a folder by name. Opening reads headers only; errors are ArtifactErrors. Threads may share it.

    `keep_pages` False drops what was read from the system's page cache: for measuring a disk, not for use.
    """

    def __init__(self, folder: str | Path, keep_pages: bool = True) -> None:
        self.folder, self.keep_pages = Path(folder), keep_pages
        self.spans: dict[str, Span] = {}
        self._open: dict[str, int] = {}
        weakref.finalize(self, _close, self._open)
        listed = listed_files(self.folder)
        for file in sorted(set(listed.values())) if listed else [SINGLE]:
            self._read_header(file)
        lost = sorted(set(listed) - set(self.spans))
        if lost:
            path = self.folder / listed[lost[0]]
            raise ArtifactError(f"{path} lacks {lost[0]}, which {INDEX} promises", hint=AGAIN)

    def __contains__(self, name: str) -> bool:
        return name in self.spans

    def __iter__(self) -> Iterator[str]:
        return iter(self.spans)

    def file(self, name: str) -> Path:
        """The file that holds a tensor, for messages."""
        return self.folder / self.spans[name].file

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return self.spans[name].shape

    def read(self, name: str) -> Tensor:
        """One tensor, as stored, in memory of its own."""
        span = self.spans[name]
        raw = torch.empty(span.size, dtype=torch.uint8)
        self.read_into(name, raw)
        return raw.view(span.dtype).view(span.shape)

    def read_into(self, name: str, target_N: Tensor) -> None:
        """One tensor's bytes into `target_N` (uint8, contiguous, of just that size). Releases the GIL."""
        span = self.spans[name]
        view, at = target_N.numpy().data, 0
        assert len(view) == span.size
        descriptor = self._open[span.file]
        try:
            while at < span.size:
                count = os.preadv(descriptor, [view[at:]], span.start + at)
                if count == 0:
                    raise ArtifactError(f"{self.file(name)} ended inside {name}", hint=AGAIN)
                at += count
        except OSError as error:
            raise ArtifactError(f"{self.file(name)}: {name} cannot be read ({error})", hint=AGAIN) from None
        if not self.keep_pages:
            os.posix_fadvise(descriptor, span.start, span.size, os.POSIX_FADV_DONTNEED)

    def _read_header(self, file: str) -> None:
        path = self.folder / file
        try:
            descriptor = self._open[file] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            end = os.fstat(descriptor).st_size
            length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
            if not 2 <= length <= min(end - 8, _LONGEST_HEADER):
                raise ValueError(f"a header of {length} bytes in a file of {end}")
            header = json.loads(os.pread(descriptor, length, 8))
            self.spans |= {n: _span(file, n, row, 8 + length, end) for n, row in header.items() if n != "__metadata__"}
        except FileNotFoundError:
            raise ArtifactError(f"{path} is missing", hint="name a finished model folder") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path} is truncated or corrupt ({error})", hint=AGAIN) from None


def _span(file: str, name: str, row: dict[str, Any], base: int, end: int) -> Span:
    """One row of a header. ValueError: an unknown type, or bytes that are not there."""
    if row["dtype"] not in _TYPES:
        raise ValueError(f"{name} has the unknown type {row['dtype']}")
    dtype, shape, (start, stop) = _TYPES[row["dtype"]], tuple(row["shape"]), row["data_offsets"]
    if not 0 <= start <= stop <= end - base or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"the place of {name} does not fit its shape or the file")
    return Span(file, base + start, stop - start, dtype, shape)


def _close(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
