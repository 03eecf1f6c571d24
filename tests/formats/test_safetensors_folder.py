"""Files that are whole or refused: sharding, digests, truncation, a full disk."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from doran.base.errors import ArtifactError, DoranError
from doran.formats import safetensors_folder as sf

TENSORS = {
    "a": torch.randn(4, 3),
    "b": torch.randn(5).to(torch.bfloat16),
    "c": torch.randn(2, 2).to(torch.float8_e4m3fn),
    "d": torch.zeros(0, 3),
    "e": torch.tensor(7),
}


def _same(x: torch.Tensor, y: torch.Tensor) -> bool:
    return x.dtype == y.dtype and x.shape == y.shape and torch.equal(x.float(), y.float())


@pytest.mark.parametrize("limit", [10**9, 30])
def test_what_is_written_is_read_back_sharded_or_not(tmp_path: Path, limit: int) -> None:
    sf.write_folder(tmp_path, TENSORS.items(), limit)
    files = sf.TensorFolder(tmp_path)
    assert set(files) == set(TENSORS)
    assert all(_same(files.read(name), tensor) for name, tensor in TENSORS.items())
    assert (tmp_path / sf.INDEX).exists() == (limit == 30)


def test_the_official_library_reads_our_file(tmp_path: Path) -> None:
    sf.write_file(tmp_path / "x.safetensors", TENSORS)
    read = load_file(tmp_path / "x.safetensors")
    assert all(_same(read[name], tensor) for name, tensor in TENSORS.items())


def test_we_read_the_official_librarys_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / sf.SINGLE)
    assert _same(sf.TensorFolder(tmp_path).read("b"), TENSORS["b"])


def test_a_later_save_leaves_no_older_shards(tmp_path: Path) -> None:
    sf.write_folder(tmp_path, TENSORS.items(), 30)
    sf.write_folder(tmp_path, TENSORS.items())
    assert sorted(p.name for p in tmp_path.iterdir()) == [sf.SINGLE]
    sf.write_folder(tmp_path, TENSORS.items(), 30)
    assert not (tmp_path / sf.SINGLE).exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="model.safetensors is missing"):
        sf.TensorFolder(tmp_path)


def test_pickled_weights_are_not_read_and_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ArtifactError, match="never read"):
        sf.TensorFolder(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    sf.write_folder(tmp_path, TENSORS.items(), 30)
    lost = sorted(tmp_path.glob("model-*"))[0]
    lost.unlink()
    with pytest.raises(ArtifactError, match=f"{lost.name} is missing"):
        sf.TensorFolder(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    sf.write_folder(tmp_path, TENSORS.items())
    path = tmp_path / sf.SINGLE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match="model.safetensors is truncated or corrupt"):
        sf.TensorFolder(tmp_path)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    sf.write_folder(tmp_path, TENSORS.items())
    path = tmp_path / sf.SINGLE
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="corrupt: its bytes do not match"):
        sf.TensorFolder(tmp_path)


def test_an_index_that_points_outside_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / sf.INDEX).write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(ArtifactError, match="outside its folder"):
        sf.TensorFolder(tmp_path)


def test_an_index_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    sf.write_folder(tmp_path, TENSORS.items(), 30)
    index = json.loads((tmp_path / sf.INDEX).read_text())
    index["weight_map"]["ghost"] = index["weight_map"]["a"]
    (tmp_path / sf.INDEX).write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match="lacks ghost"):
        sf.TensorFolder(tmp_path)


def test_a_full_disk_leaves_no_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DoranError, match="x.safetensors.*full"):
        sf.write_file(tmp_path / "x.safetensors", TENSORS)
    assert list(tmp_path.iterdir()) == []
