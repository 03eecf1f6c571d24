"""A model larger than memory: everything but the routed experts is loaded, those are read from disk when a token wants
them. Inference only, by torch's runner. Folders only (plain, FP8, ours); a GGUF file is loaded whole or not at all.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from doran.arch.config import ModelConfig
from doran.arch.tensors import tensors
from doran.base.errors import UsageError
from doran.formats import fp8
from doran.formats.names import place
from doran.formats.raw_folder import RawFolder
from doran.layers.expert_cache import ExpertCache, Key
from doran.layers.moe import Experts, MoE
from doran.layers.streamed import Form, PackedForm, Plain, StreamedExperts, weight_name
from doran.models.decoder import Decoder
from doran.models.packed import assemble
from doran.models.source import FolderSource
from doran.native import quant


def load_streamed(
    folder: str | Path,
    limit: int,
    dtype: torch.dtype = torch.float32,
    read_ahead: bool = False,
    keep_pages: bool = True,
) -> Decoder:
    """The Decoder of a folder whose experts take at most `limit` bytes of memory; `model.expert_cache` counts.

    The same tokens as `load_model`'s. UsageError: no experts to leave on disk, or `limit` is too small; ArtifactError
    and ConfigError as in `load_model`. `read_ahead` lets each layer guess the next one's experts; it pays only where
    the disk idles while the processor works (docs/bench.md). `keep_pages` False measures the disk itself.
    """
    source = FolderSource(folder, files=RawFolder(folder, keep_pages))
    files, config = source.files, source.config
    assert isinstance(files, RawFolder)
    keys = expert_keys(config)
    if not keys:
        raise UsageError(f"{folder}: this model has no experts to leave on disk", hint="leave --experts-cache out")
    form = _form(files, keys, source, dtype)
    cache = ExpertCache(form.fill, form.slot_bytes, limit, len(keys), read_ahead)
    layers: list[StreamedExperts] = []

    def streamed(path: str, module: Experts) -> StreamedExperts:
        layers.append(StreamedExperts(cache, form, int(path.split(".")[2]), config.n_routed_experts))
        return layers[-1]

    model = assemble(source, dtype, experts=streamed)
    model.quantized, model.expert_cache = True, cache
    _foresee(model, layers)
    return model


def expert_keys(config: ModelConfig) -> list[Key]:
    """Every routed expert: (layer, expert), MTP modules included."""
    depth = config.num_hidden_layers + config.num_nextn_predict_layers
    return [(i, e) for i in range(depth) if config.is_moe(i) for e in range(config.n_routed_experts)]


def resident_bytes(folder: str | Path, dtype: torch.dtype) -> int:
    """Memory of what is not streamed. What is quantised by us is counted as stored, all else in `dtype`."""
    source = FolderSource(folder, files=RawFolder(folder))
    files = source.files
    assert isinstance(files, RawFolder)
    total = 0
    for name, shape in tensors(source.config):
        if place(name).expert is None:
            packed = source.is_quantized and name + "_scale" in files
            total += files.spans[name].size if packed else math.prod(shape) * dtype.itemsize
    return total


def _form(files: RawFolder, keys: list[Key], source: FolderSource, dtype: torch.dtype) -> Form:
    kinds = {files.spans[weight_name(key, part)].dtype for key in keys for part in ("gate", "up", "down")}
    if len(kinds) > 1:
        raise UsageError(
            f"{files.folder}: the experts are stored in several types ({', '.join(sorted(map(str, kinds)))})",
            hint="leave --experts-cache out",
        )
    if not source.is_quantized or not kinds <= {torch.int8, torch.uint8}:
        block = tuple((source.config.quantization_config or {}).get("weight_block_size") or (fp8.BLOCK, fp8.BLOCK))
        return Plain(files, keys, dtype, block)  # type: ignore[arg-type]
    if not quant.available():
        raise UsageError(
            f"{files.folder}: experts of a quantised folder can be streamed only with the compiled kernels",
            hint="install a C++ compiler (apt install g++), or use the unquantised folder",
        )
    if (source.config.hidden_size | source.config.moe_intermediate_size) % quant.PANEL:
        raise UsageError(
            f"{files.folder}: experts' rows are no multiples of {quant.PANEL}", hint="use the unquantised folder"
        )
    return PackedForm(files, keys[0])


def _foresee(model: Decoder, layers: list[StreamedExperts]) -> None:
    """Let each layer guess the next one's experts: the next router, applied to this layer's input (the residual stream
    changes slowly from layer to layer). Only for a few tokens: with many, nearly every expert is wanted anyway."""
    gates = {m.layer: m.gate for m in model.modules() if isinstance(m, MoE)}
    main = [layer for layer in layers if layer.layer < model.config.num_hidden_layers]
    for here, after in zip(main, main[1:], strict=False):
        gate, number = gates[after.layer], after.layer

        def guess(x_TD: Tensor, gate: torch.nn.Module = gate, number: int = number) -> list[Key]:
            if len(x_TD) > 4:
                return []
            return [(number, e) for e in gate(x_TD)[1].flatten().unique().tolist()]

        here.foresee = guess
