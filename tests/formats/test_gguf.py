"""GGUF files: what we write, the `gguf` package reads, and the other way round; broken files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from doran.base.errors import ArtifactError
from doran.formats import gguf_blocks
from doran.formats.gguf import GGUFFile, Planned, tensor_bytes, write
from doran.formats.quant import Stored

META = {"general.architecture": "llama", "llama.block_count": 2, "a.float": 0.5, "a.yes": True,
        "a.words": ["도란", "b"], "a.kinds": [1, 3, 1], "a.reals": [0.5, 1.5]}  # fmt: skip
DENSE = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
BLOCKS = gguf_blocks.quantize("q8_0", DENSE)
STACK = torch.stack([gguf_blocks.quantize("q4_0", DENSE + i) for i in range(4)])


def example(path: Path) -> Path:
    write(path, META, [
        Planned("dense", "f32", (3, 32), lambda: DENSE),
        Planned("low", "bf16", (3, 32), lambda: DENSE.bfloat16()),
        Planned("blocks", "q8_0", (3, 32), lambda: BLOCKS),
        Planned("stack", "q4_0", (4, 3, 32), lambda: STACK),
    ])  # fmt: skip
    return path


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    file = GGUFFile(example(tmp_path / "x.gguf"))
    assert file.metadata == META
    assert torch.equal(file.read("dense"), DENSE) and torch.equal(file.read("low"), DENSE.bfloat16())
    blocks, third = file.read("blocks"), file.read("stack", 3)
    assert isinstance(blocks, Stored) and torch.equal(blocks.codes, BLOCKS) and blocks.shape == (3, 32)
    assert isinstance(third, Stored) and torch.equal(third.codes, STACK[3])


def test_the_gguf_package_reads_the_same(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    reader = gguf.GGUFReader(example(tmp_path / "x.gguf"))
    assert {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")} == META
    found = {t.name: t for t in reader.tensors}
    assert np.array_equal(found["dense"].data, DENSE.numpy())
    assert np.array_equal(found["blocks"].data, BLOCKS.numpy())
    assert np.array_equal(found["stack"].data, STACK.numpy()) and found["stack"].tensor_type.name == "Q4_0"


def test_we_read_what_the_gguf_package_writes(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    writer = gguf.GGUFWriter(tmp_path / "y.gguf", "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_tensor("dense", DENSE.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(tmp_path / "y.gguf")
    assert file.metadata["llama.block_count"] == 2 and file.metadata["tokenizer.ggml.tokens"] == ["a", "b"]
    assert torch.equal(file.read("dense"), DENSE)


def test_every_truncation_is_an_artifact_error(tmp_path: Path) -> None:
    raw = example(tmp_path / "x.gguf").read_bytes()
    for length in [0, 3, 4, 8, 20, *range(24, len(raw) - 32, 37)]:
        (tmp_path / "cut.gguf").write_bytes(raw[:length])
        with pytest.raises(ArtifactError):
            GGUFFile(tmp_path / "cut.gguf")


def test_flipped_bytes_in_the_head_never_crash(tmp_path: Path) -> None:
    raw = example(tmp_path / "x.gguf").read_bytes()
    for at in range(0, 400, 3):
        broken = bytearray(raw)
        broken[at] ^= 0xFF
        (tmp_path / "bad.gguf").write_bytes(broken)
        try:
            GGUFFile(tmp_path / "bad.gguf")
        except ArtifactError as error:
            assert "\n" not in str(error)


def test_rows_that_are_no_whole_blocks_have_no_size() -> None:
    with pytest.raises(ValueError, match="whole"):
        tensor_bytes("q4_k", (4, 32))
