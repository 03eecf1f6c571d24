"""Routed experts whose weights stay on disk (expert_cache.py holds the hot ones): layers/moe.py's Experts, in use.

For use without gradients, by torch's own products or the packed ones. Two forms of a slot: `Plain` holds a checkpoint's
bytes (any float type, FP8 blocks) and expands an expert when it is used, `PackedForm` holds what the native products
read. Each expert is visited once a forward pass, however many tokens chose it.

T tokens, D hidden, I expert width, E experts, k chosen a token, P rows grouped by expert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doran.formats import fp8
from doran.formats.quant import SCALE_SUFFIX, Stored
from doran.formats.raw_folder import RawFolder
from doran.layers.expert_cache import ExpertCache, Key
from doran.layers.linear import apart, interleave, pack
from doran.layers.moe import expert_layout
from doran.native import ops, quant
from doran.native.repack import panels_of, repack

PARTS = ("gate", "up", "down")


def weight_name(key: Key, part: str) -> str:
    """The checkpoint's name of one matrix of an expert."""
    return f"model.layers.{key[0]}.mlp.experts.{key[1]}.{part}_proj.weight"


class Form(Protocol):
    """What a slot of `slot_bytes` means."""

    slot_bytes: int

    def fill(self, key: Key, slot: Tensor) -> None:
        """Read an expert into a slot."""

    def forward(self, key: Key, slot: Tensor, x_PD: Tensor) -> Tensor:
        """The expert's output for its rows, (P, D), in x's dtype."""


class Plain:
    """Gate, up and down as the file has them, one behind the other. FP8's block scales are small and stay in memory.

    The result is that of a model loaded whole in `dtype`, bit for bit: the same roundings in the same order.
    """

    def __init__(self, files: RawFolder, keys: Sequence[Key], dtype: torch.dtype, block: tuple[int, int]) -> None:
        self.files, self.dtype, self.block = files, dtype, block
        spans = [files.spans[weight_name(keys[0], part)] for part in PARTS]
        self.width, self.hidden = spans[0].shape
        self.stored = spans[0].dtype
        self.slot_bytes = sum(span.size for span in spans)
        scaled = keys if self.stored.itemsize == 1 else []
        self.scales = {key: [files.read(weight_name(key, p) + fp8.SCALE_SUFFIX) for p in PARTS] for key in scaled}

    def fill(self, key: Key, slot: Tensor) -> None:
        """Three reads."""
        for part, piece in zip(PARTS, slot.chunk(3), strict=True):
            self.files.read_into(weight_name(key, part), piece)

    def forward(self, key: Key, slot: Tensor, x_PD: Tensor) -> Tensor:
        """SwiGLU with the expert's weights, expanded to `dtype` where they are stored otherwise."""
        both, last = slot.view(self.stored).tensor_split([2 * self.width * self.hidden])
        gate_up, down = both.view(-1, self.hidden), last.view(self.hidden, -1)
        if self.scales:
            halves = [self._expand(w, s) for w, s in zip(gate_up.chunk(2), self.scales[key], strict=False)]
            gate_up, down = torch.cat(halves), self._expand(down, self.scales[key][2])
        gate_up, down = (w.to(self.dtype).to(x_PD.dtype) for w in (gate_up, down))
        return F.linear(ops.swiglu(F.linear(x_PD, gate_up)), down)

    def _expand(self, codes: Tensor, scale: Tensor) -> Tensor:
        return fp8.expand(codes, scale, self.dtype, self.block)


class PackedForm:
    """int8 or int4 groups (formats/quant.py) in the layout of the native products; the reader threads pack."""

    def __init__(self, files: RawFolder, key: Key) -> None:
        self.files = files
        parts = [self._stored(key, part) for part in PARTS]
        self.layouts = pack(interleave(parts[0], parts[1])), pack(parts[2])
        self.slot_bytes = sum(form.num_bytes for form in self.layouts)

    def fill(self, key: Key, slot: Tensor) -> None:
        """Six reads, one packing: panels of gate and up in turn, as `interleave` has them."""
        gate, up, down = (self._stored(key, part) for part in PARTS)
        both, last = slot.split([form.num_bytes for form in self.layouts])
        panels = panels_of(gate.kind, 2 * len(gate.codes), gate.columns, both)
        for part, place in (
            (gate, panels[0::2]),
            (up, panels[1::2]),
            (down, panels_of(down.kind, len(down.codes), down.columns, last)),
        ):
            assert part.scale is not None
            repack(part.kind, part.codes, part.scale, place)

    def forward(self, key: Key, slot: Tensor, x_PD: Tensor) -> Tensor:
        """As QuantExperts does it (layers/linear.py)."""
        both = slot.split([form.num_bytes for form in self.layouts])
        gate_up, down = (
            quant.Packed(form.layout, form.rows, form.columns, data[None])
            for form, data in zip(self.layouts, both, strict=True)
        )
        return quant.matmul(ops.swiglu_pair(*apart(quant.matmul(x_PD, gate_up))), down)

    def _stored(self, key: Key, part: str) -> Stored:
        name = weight_name(key, part)
        codes, scale = self.files.read(name), self.files.read(name + SCALE_SUFFIX)
        kind = "int8" if codes.dtype == torch.int8 else "int4"
        return Stored(kind, codes, codes.shape[1] * (1 if kind == "int8" else 2), scale)


class StreamedExperts(nn.Module):
    """The routed experts of one layer. `foresee`, if set, guesses from this layer's input which the next will want."""

    def __init__(self, cache: ExpertCache, form: Form, layer: int, num_experts: int) -> None:
        super().__init__()
        self.cache, self.form, self.layer, self.num_experts = cache, form, layer, num_experts
        self.foresee: Callable[[Tensor], list[Key]] | None = None

    def forward(self, x_TD: Tensor, weights_Tk: Tensor, experts_Tk: Tensor) -> Tensor:
        """Sum of the chosen experts' weighted outputs -> (T, D), in whatever order they come from the disk."""
        rows_P, place_R, segments = expert_layout(experts_Tk, self.num_experts)
        x_PD = ops.expert_gather(x_TD, rows_P, place_R, experts_Tk.shape[1])
        parts = x_PD.split(segments)
        coming = self.cache.visit([(self.layer, e) for e, size in enumerate(segments) if size], len(x_TD))
        if self.foresee is not None and self.cache.read_ahead:
            self.cache.ahead(self.foresee(x_TD))
        out: list[Tensor | None] = [None] * self.num_experts
        for key, slot in coming:
            out[key[1]] = self.form.forward(key, slot, parts[key[1]])
        return ops.expert_combine(torch.cat([y for y in out if y is not None]), place_R, weights_Tk)
