"""A model from a quantised source: packed matrices where the kernels are built, dequantised weights elsewhere.

Dense in any case: norms, router, biases, and MLA's kv_b_proj, which absorbed attention takes apart.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from doran.arch.tensors import tensors
from doran.formats.names import place
from doran.formats.quant import Stored
from doran.layers.linear import QuantEmbedding, QuantExperts, QuantLinear, QuantSwiGLU, interleave, pack
from doran.layers.moe import Experts, SwiGLU
from doran.models.decoder import Decoder
from doran.models.families import empty
from doran.models.source import Source, plain
from doran.native import quant as kernels

# Projections whose rows native steps want in the order of the rotation (engine/quant_panels.py).
_TURNED = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa")


def assemble(
    source: Source,
    dtype: torch.dtype,
    packed: bool | None = None,
    experts: Callable[[str, Experts], nn.Module] | None = None,
) -> Decoder:
    """The Decoder of a source. `dtype` is that of dense weights and of the residual stream; `packed` False expands
    every matrix, None packs where kernels are available. `experts(path, module)` puts another module in the place of
    routed experts."""
    model = empty(source.config, dtype)
    if experts is not None:
        for path, module in [(p, m) for p, m in model.named_modules() if isinstance(m, Experts)]:
            model.set_submodule(path, experts(path, module))
    if source.is_quantized and (kernels.available() if packed is None else packed):
        replaced = "none"
        for path, module in list(model.named_modules()):
            if path.startswith(replaced + "."):
                continue
            stand_in = _packed_form(source, path, module, dtype)
            if stand_in is not None:
                model.set_submodule(path, stand_in)
                model.quantized, replaced = True, path
        if source.config.tie_word_embeddings and isinstance(model.model.embed_tokens, QuantEmbedding):
            model.tied_head = QuantLinear(pack(model.model.embed_tokens.table))
    _fill(model, source)
    return model


def _packed_form(source: Source, path: str, module: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    if isinstance(module, Experts):
        return _experts(source, path, len(module.gate_up_proj))
    if isinstance(module, SwiGLU) and module.gate_proj.bias is None:
        pair = _gate_up_down(source, path)
        return None if pair is None else QuantSwiGLU(pack(pair[0]), pack(pair[1]))
    if not isinstance(module, nn.Linear | nn.Embedding) or path.endswith("kv_b_proj"):
        return None
    entry = source.get(f"{path}.weight")
    if not isinstance(entry, Stored):
        return None
    if isinstance(module, nn.Embedding):
        return QuantEmbedding(entry, dtype)
    bias = None if module.bias is None else plain(source.get(f"{path}.bias"))
    return QuantLinear(pack(entry), bias, entry if path.endswith(_TURNED) and source.config.is_mla else None)


def _gate_up_down(source: Source, path: str) -> tuple[Stored, Stored] | None:
    """Gate and up interleaved, and down; None where they cannot be joined."""
    gate, up, down = (source.get(f"{path}.{name}_proj.weight") for name in ("gate", "up", "down"))
    if not (isinstance(gate, Stored) and isinstance(up, Stored) and isinstance(down, Stored)):
        return None
    if gate.kind != up.kind or len(gate.codes) % kernels.PANEL:
        return None
    return interleave(gate, up), down


def _experts(source: Source, path: str, count: int) -> QuantExperts | None:
    pairs = []
    for expert in range(count):
        pair = _gate_up_down(source, f"{path}.{expert}")
        if pair is None:
            return None
        pairs.append(pair)
    if any(len({pair[i].kind for pair in pairs}) > 1 for i in (0, 1)):
        return None
    return QuantExperts(pack(*(gate_up for gate_up, _ in pairs)), pack(*(down for _, down in pairs)))


@torch.no_grad()
def _fill(model: Decoder, source: Source) -> None:
    """Give memory and values to the parameters that are still dense."""
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if value.is_meta:
                setattr(module, name, nn.Parameter(torch.empty(value.shape, dtype=value.dtype)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype))
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, _ in tensors(source.config):
        spot = place(name)
        if spot.parameter in held:
            spot.view(held[spot.parameter]).copy_(plain(source.get(name)))
