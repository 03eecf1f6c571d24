"""Folders read by position: the tensors of the mapped reader, and files that are not what their header says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from doran.base.errors import ArtifactError
from doran.formats.raw_folder import RawFolder
from doran.formats.safetensors_folder import SINGLE, TensorFolder, write_folder

TENSORS = {
    "a": torch.arange(12.0).view(3, 4),
    "b": torch.arange(6).view(2, 3).bfloat16(),
    "c": torch.ones(5, 7).to(torch.float8_e4m3fn),
    "d": torch.tensor(3.5),
}


@pytest.mark.parametrize("shard", [10**9, 40])
@pytest.mark.parametrize("keep_pages", [True, False])
def test_it_reads_what_the_mapped_reader_reads(tmp_path: Path, shard: int, keep_pages: bool) -> None:
    write_folder(tmp_path, TENSORS.items(), shard)
    raw, mapped = RawFolder(tmp_path, keep_pages), TensorFolder(tmp_path)
    assert set(raw) == set(mapped) and "e" not in raw
    for name in raw:
        assert raw.shape(name) == mapped.shape(name) and raw.file(name) == mapped.file(name)
        one, other = raw.read(name), mapped.read(name)
        assert one.dtype == other.dtype and torch.equal(one.float(), other.float())


def test_a_tensor_goes_where_the_caller_wants_it(tmp_path: Path) -> None:
    write_folder(tmp_path, TENSORS.items())
    pool = torch.zeros(100, dtype=torch.uint8)
    RawFolder(tmp_path).read_into("a", pool[8:56])
    assert torch.equal(pool[8:56].view(torch.float32).view(3, 4), TENSORS["a"])
    assert not pool[:8].any() and not pool[56:].any()


def broken(folder: Path, change: str) -> None:
    """A file whose header lies."""
    rows = {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}
    rows["a"] |= {
        "type": {"dtype": "F128"}, "size": {"shape": [4]}, "beyond": {"data_offsets": [4, 16]},
        "turned": {"data_offsets": [12, 0]}, "word": {"data_offsets": ["0", "12"]},
    }.get(change, {})  # fmt: skip
    text = b"[1]" if change == "list" else json.dumps(rows).encode()
    length = {"long": 10**12, "cut": len(text) + 50}.get(change, len(text))
    (folder / SINGLE).write_bytes(length.to_bytes(8, "little") + text + bytes(12))


@pytest.mark.parametrize("change", ["type", "size", "beyond", "turned", "word", "list", "long", "cut"])
def test_a_header_that_lies_is_one_clear_line(tmp_path: Path, change: str) -> None:
    broken(tmp_path, change)
    with pytest.raises(ArtifactError, match="truncated or corrupt"):
        RawFolder(tmp_path)


def test_a_missing_file_and_a_file_that_shrank_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is missing"):
        RawFolder(tmp_path)
    write_folder(tmp_path, TENSORS.items())
    raw, path = RawFolder(tmp_path), tmp_path / SINGLE
    with open(path, "r+b") as file:
        file.truncate(raw.spans["a"].start + 4)
    with pytest.raises(ArtifactError, match="ended inside a"):
        raw.read("a")
