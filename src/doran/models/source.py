"""Where weights come from, by the checkpoint's names: an HF folder, plain, FP8 or quantised by us. Builds no model.

GGUF files are another source with the same face (models/gguf.py). What a source hands out is a plain tensor, or a
`Stored` matrix that is still quantised; FP8 blocks are expanded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from doran.arch.config import ModelConfig, load_config
from doran.arch.tensors import is_duplicate, mtp_layer, tensors
from doran.base.errors import ArtifactError
from doran.formats import fp8, quant
from doran.formats.quant import Stored
from doran.formats.raw_folder import RawFolder
from doran.formats.safetensors_folder import TensorFolder

Entry = Tensor | Stored


class Source(Protocol):
    """A checkpoint that was found whole: every tensor that `config` asks for can be had."""

    config: ModelConfig

    @property
    def is_quantized(self) -> bool:
        """May `get` hand out Stored matrices?"""

    def get(self, name: str) -> Entry:
        """One tensor by the hub's name."""


class FolderSource:
    """config.json and safetensors. ArtifactError or ConfigError, in one line, for what does not fit together.

    transformers drops MTP weights but keeps `num_nextn_predict_layers` in its config: a folder without any MTP tensor
    counts as a model without MTP. `heads`: tensors that stand where lm_head would (models/reward.py), unchecked.
    """

    def __init__(
        self, folder: str | Path, heads: tuple[str, ...] = (), files: TensorFolder | RawFolder | None = None
    ) -> None:
        config, self.files, self.heads = load_config(folder), files or TensorFolder(folder), heads
        if heads:
            config = replace(config, tie_word_embeddings=True)  # the trunk alone: no lm_head is asked for
        if not any(mtp_layer(name, config) is not None for name in self.files):
            config = replace(config, num_nextn_predict_layers=0)
        self.config = config
        self._check()

    @property
    def is_quantized(self) -> bool:
        """Written by `doran quantize`?"""
        return (self.config.quantization_config or {}).get("quant_method") == quant.METHOD

    def get(self, name: str) -> Entry:
        """One tensor: plain, or Stored."""
        tensor = self.files.read(name)
        if tensor.dtype == torch.float8_e4m3fn:
            return self._fp8(name, tensor)
        if self.is_quantized and name + quant.SCALE_SUFFIX in self.files:
            kind = "int8" if tensor.dtype == torch.int8 else "int4"
            columns = tensor.shape[1] * (1 if kind == "int8" else 2)
            return Stored(kind, tensor, columns, self.files.read(name + quant.SCALE_SUFFIX))
        return tensor

    def _check(self) -> None:
        """Every expected tensor is there in its shape, and nothing else is."""
        files, expected = self.files, dict(tensors(self.config))
        suffix = quant.SCALE_SUFFIX if self.is_quantized else fp8.SCALE_SUFFIX
        for name, shape in expected.items():
            if name not in files:
                raise ArtifactError(f"{files.folder}: {name} is missing", hint="the weights do not fit config.json")
            found = files.shape(name)
            if self.is_quantized and name + suffix in files:
                self._check_quantized(name, shape)
            elif found != shape:
                raise ArtifactError(
                    f"{files.file(name)}: {name} is {list(found)}, config.json asks for {list(shape)}",
                    hint="the weights belong to another config.json",
                )
        for name in files:
            known = name in expected or name.removesuffix(suffix) in expected or name in self.heads
            if not known and not is_duplicate(name.removesuffix(suffix), self.config):
                raise ArtifactError(
                    f"{files.file(name)}: unexpected tensor {name}", hint="the weights do not fit config.json"
                )

    def _check_quantized(self, name: str, shape: tuple[int, ...]) -> None:
        codes, scale = self.files.shape(name), self.files.shape(name + quant.SCALE_SUFFIX)
        wide = len(shape) == 2 and codes in ((shape[0], shape[1]), (shape[0], shape[1] // 2))
        if not wide or scale != (shape[0], shape[1] // quant.GROUP):
            raise ArtifactError(
                f"{self.files.file(name)}: {name} is {list(codes)} with scales {list(scale)}, config.json asks for "
                f"{list(shape)} in groups of {quant.GROUP}",
                hint="quantise the source again with doran quantize",
            )

    def _fp8(self, name: str, tensor: Tensor) -> Tensor:
        scale_name = name + fp8.SCALE_SUFFIX
        if scale_name not in self.files:
            raise ArtifactError(
                f"{self.files.file(name)}: {name} is FP8 but {scale_name} is missing", hint="copy the folder again"
            )
        block = tuple((self.config.quantization_config or {}).get("weight_block_size") or (fp8.BLOCK, fp8.BLOCK))
        wanted = fp8.scale_shape(tuple(tensor.shape), block)  # type: ignore[arg-type]
        if self.files.shape(scale_name) != wanted:
            raise ArtifactError(
                f"{self.files.file(scale_name)}: {scale_name} is {list(self.files.shape(scale_name))}, "
                f"not {list(wanted)}"
            )
        return fp8.dequantize(tensor, self.files.read(scale_name), block)  # type: ignore[arg-type]


def plain(entry: Entry) -> Tensor:
    """In floating point, whatever it was."""
    return entry.dequantize() if isinstance(entry, Stored) else entry
