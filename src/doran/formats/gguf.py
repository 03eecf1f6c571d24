"""GGUF files (version 3): metadata and tensors, read through a memory map and written whole. Knows no model.

The file: magic, version, counts; key-value pairs; each tensor's name, dimensions (innermost first), type and offset;
then the tensors, each on a multiple of the alignment. Everything is little-endian. Blocks are gguf_blocks.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from doran.base.errors import ArtifactError
from doran.base.files import atomic_file
from doran.formats import gguf_blocks
from doran.formats.quant import Stored

ALIGNMENT = 32
TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "q4_k": 12, "q6_k": 14, "bf16": 30}
_NAMES = {number: name for name, number in TYPES.items()}
_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_AGAIN = "copy or download the file again"


@dataclass(frozen=True)
class Info:
    """One tensor's place: `shape` in our order (outermost first)."""

    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int  # bytes


def tensor_bytes(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of this type. ValueError where rows are no whole blocks."""
    count = int(np.prod(shape, dtype=np.int64))
    if kind in _DTYPES:
        return count * _DTYPES[kind].itemsize
    block = gguf_blocks.KINDS[kind]
    if not shape or shape[-1] % block.size:
        raise ValueError(f"rows of {shape} are no whole {kind} blocks")
    return count // block.size * block.bytes


class GGUFFile:
    """An open file: `metadata`, `infos`, `read`. ArtifactError for what is truncated, malformed or of unknown type."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._data = np.memmap(self.path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self.path} cannot be read ({error})", hint="give a GGUF file") from None
        self._at = 0
        try:
            self._read_head()
        except (struct.error, UnicodeDecodeError, OverflowError, MemoryError, ValueError) as error:
            raise ArtifactError(f"{self.path} is truncated or malformed ({error})", hint=_AGAIN) from None

    def _read_head(self) -> None:
        if bytes(self._data[:4]) != b"GGUF":
            raise ArtifactError(f"{self.path} is no GGUF file", hint="give a file that starts with GGUF")
        self._at = 4
        version = self._scalar("I")
        if version not in (2, 3):
            raise ArtifactError(
                f"{self.path} is GGUF version {version}, only 2 and 3 are read", hint="convert it again"
            )
        num_tensors, num_pairs = self._scalar("Q"), self._scalar("Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(num_pairs):
            key = self._string()
            self.metadata[key] = self._value(self._scalar("I"))
        entries = [self._entry() for _ in range(num_tensors)]
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0:
            raise ValueError(f"alignment {alignment!r}")
        start = -(-self._at // alignment) * alignment
        self.infos: dict[str, Info] = {}
        for name, kind, shape, offset in entries:
            if kind not in _NAMES:
                raise ArtifactError(
                    f"{self.path}: {name} has tensor type {kind}, known: {', '.join(TYPES)}",
                    hint="convert the file to one of these types",
                )
            size = tensor_bytes(_NAMES[kind], shape)
            if start + offset + size > len(self._data):
                raise ArtifactError(f"{self.path} is truncated: {name} ends beyond the file", hint=_AGAIN)
            self.infos[name] = Info(_NAMES[kind], shape, start + offset, size)

    def _scalar(self, code: str) -> Any:
        width = struct.calcsize(code)
        (value,) = struct.unpack("<" + code, bytes(self._data[self._at : self._at + width]))
        self._at += width
        return value

    def _string(self) -> str:
        length = self._scalar("Q")
        if length > len(self._data) - self._at:
            raise ValueError("a string longer than the file")
        text = bytes(self._data[self._at : self._at + length]).decode("utf-8")
        self._at += length
        return text

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            if kind not in _SCALARS:
                raise ValueError(f"metadata of type {kind}")
            return self._scalar(_SCALARS[kind])
        inner, length = self._scalar("I"), self._scalar("Q")
        if length > len(self._data) - self._at:
            raise ValueError("an array longer than the file")
        if inner not in _SCALARS:
            return [self._value(inner) for _ in range(length)]
        code = "<" + _SCALARS[inner]
        values = np.frombuffer(self._data, dtype=np.dtype(code), count=length, offset=self._at)
        self._at += values.nbytes
        return values.tolist()

    def _entry(self) -> tuple[str, int, tuple[int, ...], int]:
        name, dims = self._string(), self._scalar("I")
        if dims > 4:
            raise ValueError(f"{name} has {dims} dimensions")
        shape = tuple(reversed([self._scalar("Q") for _ in range(dims)]))
        return name, self._scalar("I"), shape, self._scalar("Q")

    def __contains__(self, name: str) -> bool:
        return name in self.infos

    def read(self, name: str, index: int | None = None) -> Tensor | Stored:
        """A tensor, or row `index` of its outermost axis (one expert). Blocks stay as they are (`Stored`); memory is
        the file's own until it is changed or moved."""
        info = self.infos[name]
        shape, size, start = info.shape, info.size, info.offset
        if index is not None:
            shape, size = shape[1:], size // shape[0]
            start += index * size
        raw = torch.from_numpy(np.array(self._data[start : start + size]))
        if info.kind in _DTYPES:
            return raw.view(_DTYPES[info.kind]).view(shape)
        if len(shape) != 2:
            raise ArtifactError(f"{self.path}: {name} is {list(shape)} in blocks, not a matrix", hint=_AGAIN)
        return Stored(info.kind, raw.view(shape[0], -1), shape[1])


@dataclass(frozen=True)
class Planned:
    """A tensor to write: its bytes are made when its turn comes, so that one at a time is in memory."""

    name: str
    kind: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]  # of exactly tensor_bytes(kind, shape) bytes, contiguous


def write(path: str | Path, metadata: Mapping[str, Any], tensors: Iterable[Planned]) -> None:
    """Write a file, whole or absent. Metadata: str, bool, int (as uint32), float (as float32), or lists of them."""
    planned = list(tensors)
    with atomic_file(path) as file:
        _write_all(file, metadata, planned)


def _write_all(file: BinaryIO, metadata: Mapping[str, Any], planned: list[Planned]) -> None:
    file.write(b"GGUF" + struct.pack("<IQQ", 3, len(planned), len(metadata)))
    for key, value in metadata.items():
        file.write(_pack_string(key) + _pack_value(value))
    offset = 0
    for tensor in planned:
        dims = tuple(reversed(tensor.shape))
        file.write(_pack_string(tensor.name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
        file.write(struct.pack("<IQ", TYPES[tensor.kind], offset))
        offset += _aligned(tensor_bytes(tensor.kind, tensor.shape))
    file.write(b"\0" * (_aligned(file.tell()) - file.tell()))
    for tensor in planned:
        raw = tensor.make().detach().contiguous().flatten().view(torch.uint8).numpy()
        assert raw.nbytes == tensor_bytes(tensor.kind, tensor.shape), tensor.name
        file.write(raw.data)
        file.write(b"\0" * (_aligned(raw.nbytes) - raw.nbytes))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pack_string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _kind_of(value: Any) -> int:
    if isinstance(value, bool):
        return 7
    if isinstance(value, int):
        return 5 if value < 0 else 4
    return 6 if isinstance(value, float) else _STRING


def _pack_value(value: Any) -> bytes:
    if isinstance(value, list):
        kind = max(map(_kind_of, value), default=4)
        kind = 5 if kind == 4 else kind  # lists of whole numbers are int32, as llama.cpp writes token types
        head = struct.pack("<IIQ", _ARRAY, kind, len(value))
        if kind == _STRING:
            return head + b"".join(map(_pack_string, value))
        return head + struct.pack(f"<{len(value)}{_SCALARS[kind]}", *value)
    kind = _kind_of(value)
    if kind == _STRING:
        return struct.pack("<I", kind) + _pack_string(value)
    return struct.pack("<I" + _SCALARS[kind], kind, value)
