"""A folder of safetensors files, one or sharded: checked reading, whole-or-absent writing. Knows tensors, not models.

The file is 8 bytes of header length, a JSON header, the tensors' bytes. What we write carries a SHA-256 of those
bytes in the header's metadata; what carries one is verified when opened, so a flipped bit is found. Truncated and
malformed files are found in any case. Pickle is never read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from doran.base.errors import ArtifactError
from doran.base.files import atomic_file, disk_errors, read_json, write_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DIGEST = "doran.sha256"
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3",
}  # fmt: skip
_FINISHED = "name a finished model folder with safetensors weights"
AGAIN = "copy or download it again"


class TensorFolder:
    """The tensors of a folder by name, read one at a time. Opening checks every file; errors are ArtifactErrors."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files: dict[str, Any] = {}
        self.where: dict[str, str] = {}  # tensor -> file
        listed = listed_files(self.folder)
        for file in sorted(set(listed.values())) if listed else [SINGLE]:
            self._files[file] = _open(self.folder / file)
            self.where |= dict.fromkeys(self._files[file].keys(), file)
        lost = sorted(set(listed) - set(self.where))
        if lost:
            path = self.folder / listed[lost[0]]
            raise ArtifactError(f"{path} lacks {lost[0]}, which {INDEX} promises", hint=AGAIN)

    def __contains__(self, name: str) -> bool:
        return name in self.where

    def __iter__(self) -> Iterator[str]:
        return iter(self.where)

    def file(self, name: str) -> Path:
        """The file that holds a tensor, for messages."""
        return self.folder / self.where[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return tuple(self._files[self.where[name]].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """One tensor, as stored."""
        try:
            return self._files[self.where[name]].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{self.file(name)}: {name} cannot be read ({error})", hint=AGAIN) from None


def read_file(path: Path) -> dict[str, Tensor]:
    """All tensors of one file. ArtifactError where it is missing, torn or changed."""
    opened = _open(path)
    return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dict)


def listed_files(folder: Path) -> dict[str, str]:
    """The index's map from tensor to file; empty where one plain file holds everything."""
    if (folder / SINGLE).exists() or not (folder / INDEX).exists():
        return {}
    index = read_json(folder / INDEX)
    listed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise ArtifactError(f"{folder / INDEX} has no weight_map", hint=AGAIN)
    if any(Path(file).name != file for file in listed.values()):
        raise ArtifactError(f"{folder / INDEX} names a file outside its folder", hint=AGAIN)
    return listed


def _open(path: Path) -> Any:
    if not path.exists():
        pickled = any(path.parent.glob("*.bin")) or any(path.parent.glob("*.pt*"))
        hint = "pickled weights are never read: convert them to safetensors" if pickled else _FINISHED
        raise ArtifactError(f"{path} is missing", hint=hint)
    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is truncated or corrupt ({error})", hint=AGAIN) from None
    promised = (opened.metadata() or {}).get(_DIGEST)
    if promised and promised != _payload_digest(path):
        raise ArtifactError(f"{path} is corrupt: its bytes do not match the SHA-256 in its header", hint=AGAIN)
    return opened


def _payload_digest(path: Path) -> str:
    with open(path, "rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_folder(
    folder: str | Path, tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int = 5_000_000_000
) -> None:
    """Write all tensors to `folder`: one file, or shards with an index where they exceed `max_shard_bytes`. Each file
    is written beside and renamed; files of an earlier save that are no longer part are removed at the end."""
    folder = Path(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(tensors, max_shard_bytes)
    if len(shards) == 1:
        names = [SINGLE]
    else:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        write_file(folder / name, shard)
    if len(shards) > 1:
        files = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        size = sum(_bytes(t) for shard in shards for t in shard.values())
        write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": files})
    kept = {*names, INDEX} if len(shards) > 1 else {SINGLE}
    for old in (*folder.glob("model*.safetensors"), folder / INDEX):
        if old.name not in kept:
            old.unlink(missing_ok=True)


def _shards(tensors: Iterable[tuple[str, Tensor]], limit: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors:
        if shards[-1] and size + _bytes(tensor) > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += _bytes(tensor)
    return shards


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def write_file(path: Path, tensors: dict[str, Tensor]) -> None:
    """One safetensors file, whole or absent. A full disk is a DoranError that names it."""
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # keeps every tensor aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt", _DIGEST: _digest(tensors[name] for name in ordered)}}
    end = 0
    for name in ordered:
        tensor = tensors[name]
        start, end = end, end + _bytes(tensor)
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            file.write(_raw(tensors[name]))


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(_raw(tensor))
    return digest.hexdigest()


def _raw(tensor: Tensor) -> Any:
    """A tensor's bytes in memory order, without a copy where it is contiguous."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
