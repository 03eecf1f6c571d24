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

from doran.arch.count import quantized
from doran.arch.tensors import tensors
from doran.base.files import disk_errors, write_json
from doran.formats import fp8
from doran.formats.names import place, unstack
from doran.formats.safetensors_folder import write_folder
from doran.models.decoder import Decoder
from doran.models.families import empty
from doran.models.gguf import GGUFSource
from doran.models.packed import assemble
from doran.models.source import FolderSource, Source, plain


def open_source(path: str | Path) -> Source:
    """The weights at `path`, by name: a folder, or a GGUF file. ArtifactError or ConfigError for what does not fit."""
    return GGUFSource(path) if Path(path).suffix == ".gguf" else FolderSource(path)


def load_model(folder: str | Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """Read a model folder, ours or transformers', or a GGUF file. `dtype` is what the weights become in memory; FP8
    blocks are expanded, quantised matrices stay packed where the kernels are built (models/packed.py).

    A folder without any MTP tensor loads as a model without MTP. ArtifactError or ConfigError, in one line, for
    anything else that does not fit.
    """
    source = open_source(folder)
    return assemble(source, dtype) if source.is_quantized else read_decoder(source, dtype)


def read_decoder(source: Source, dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder of a source in plain floating point, ready to train."""
    model = empty(source.config, dtype)
    model.to_empty(device="cpu")
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, _ in tensors(source.config):
            spot = place(name)
            spot.view(held[spot.parameter]).copy_(plain(source.get(name)))
    return model


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
    if model.quantized:
        raise ValueError("a model with packed weights cannot be saved: keep the folder it came from")
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
