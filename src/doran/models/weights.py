"""Models to and from Hugging Face folders: config.json and safetensors. Tokenizers are text/'s business.

Files are checked against the config's own list of tensors before anything is read. config.json is written last and
removed first: a folder that has one is whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from doran.arch.config import ModelConfig, load_config
from doran.arch.count import quantized
from doran.arch.tensors import Shape, is_duplicate, mtp_layer, tensors
from doran.base.errors import ArtifactError
from doran.base.files import disk_errors, write_json
from doran.formats import fp8
from doran.formats.names import place, unstack
from doran.formats.safetensors_folder import TensorFolder, write_folder
from doran.models.decoder import Decoder
from doran.models.families import empty


def load_model(folder: str | Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """Read a model folder, ours or transformers'. FP8 blocks are expanded; `dtype` is what the weights become in
    memory.

    transformers drops MTP weights but keeps `num_nextn_predict_layers` in its config: a folder without any MTP tensor
    loads as a model without MTP. ArtifactError or ConfigError, in one line, for anything else that does not fit.
    """
    config = load_config(folder)
    files = TensorFolder(folder)
    config = _without_lost_mtp(config, files)
    expected = dict(tensors(config))
    _check(files, expected, config)
    model = empty(config, dtype)
    model.to_empty(device="cpu")
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name in expected:
            spot = place(name)
            spot.view(held[spot.parameter]).copy_(_read(files, name, config))
    return model


def _without_lost_mtp(config: ModelConfig, files: TensorFolder) -> ModelConfig:
    if any(mtp_layer(name, config) is not None for name in files):
        return config
    return replace(config, num_nextn_predict_layers=0)


def _check(files: TensorFolder, expected: dict[str, Shape], config: ModelConfig) -> None:
    """Every expected tensor is there in its shape, and nothing else is."""
    for name, shape in expected.items():
        if name not in files:
            raise ArtifactError(f"{files.folder}: {name} is missing", hint="the weights do not fit config.json")
        if files.shape(name) != shape:
            raise ArtifactError(
                f"{files.file(name)}: {name} is {list(files.shape(name))}, config.json asks for {list(shape)}",
                hint="the weights belong to another config.json",
            )
    for name in files:
        known = name in expected or name.removesuffix(fp8.SCALE_SUFFIX) in expected
        if not known and not is_duplicate(name.removesuffix(fp8.SCALE_SUFFIX), config):
            raise ArtifactError(
                f"{files.file(name)}: unexpected tensor {name}", hint="the weights do not fit config.json"
            )


def _read(files: TensorFolder, name: str, config: ModelConfig) -> Tensor:
    """One tensor in plain floating point."""
    tensor = files.read(name)
    if tensor.dtype != torch.float8_e4m3fn:
        return tensor
    scale_name = name + fp8.SCALE_SUFFIX
    if scale_name not in files:
        raise ArtifactError(
            f"{files.file(name)}: {name} is FP8 but {scale_name} is missing", hint="copy the folder again"
        )
    block = tuple((config.quantization_config or {}).get("weight_block_size") or (fp8.BLOCK, fp8.BLOCK))
    wanted = fp8.scale_shape(tuple(tensor.shape), block)  # type: ignore[arg-type]
    if files.shape(scale_name) != wanted:
        raise ArtifactError(
            f"{files.file(scale_name)}: {scale_name} is {list(files.shape(scale_name))}, not {list(wanted)}"
        )
    return fp8.dequantize(tensor, files.read(scale_name), block)  # type: ignore[arg-type]


def save_model(
    model: Decoder,
    folder: str | Path,
    quantize: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write config.json and the weights so that transformers loads them. `quantize="fp8"` stores matrices in FP8
    blocks of 128x128 as DeepSeek does; the default stores each tensor in its own dtype. Other files in the folder
    stay."""
    if quantize not in (None, "fp8"):
        raise ValueError(f"quantize is {quantize!r}, not None or 'fp8'")
    folder = Path(folder)
    stored = str(model.model.embed_tokens.weight.dtype).removeprefix("torch.")
    config = replace(model.config, torch_dtype=stored, quantization_config=_FP8 if quantize else None)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").unlink(missing_ok=True)
    matrices = {name for name, _ in quantized(config)} if quantize else set()
    write_folder(folder, _disk_tensors(model, matrices), max_shard_bytes)
    write_json(folder / "config.json", config.to_hf())


_FP8 = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [fp8.BLOCK, fp8.BLOCK],
}


@torch.no_grad()
def _disk_tensors(model: Decoder, matrices: set[str]) -> Iterator[tuple[str, Tensor]]:
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    for parameter, value in held.items():
        for name, tensor in unstack(parameter, value.detach()):
            if name in matrices:
                small, scale = fp8.quantize(tensor)
                yield name, small
                yield name + fp8.SCALE_SUFFIX, scale
            else:
                yield name, tensor
