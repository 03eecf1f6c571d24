"""Experts' tensor names: a checkpoint has one tensor an expert and projection, memory has two stacks a layer.

`…mlp.experts.3.gate_proj.weight` (I, D) is the upper half of row 3 of `…mlp.experts.gate_up_proj` (E, 2I, D), `up_proj`
the lower; `down_proj` (D, I) is row 3 of `…mlp.experts.down_proj` (E, D, I). Every other name is the same in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


class Place(NamedTuple):
    """Where a checkpoint's tensor lives: a parameter's name and, for experts, its row and half (0 gate, 1 up)."""

    parameter: str
    expert: int | None = None
    half: int | None = None

    def view(self, parameter: Tensor) -> Tensor:
        """The part of `parameter` that the checkpoint's tensor is."""
        if self.expert is None:
            return parameter
        row = parameter[self.expert]
        return row if self.half is None else row.chunk(2, dim=0)[self.half]


def place(name: str) -> Place:
    """The place of a checkpoint's tensor in memory."""
    match = _EXPERT.fullmatch(name)
    if not match:
        return Place(name)
    prefix, expert, projection = match[1], int(match[2]), match[3]
    if projection == "down":
        return Place(f"{prefix}.down_proj", expert)
    return Place(f"{prefix}.gate_up_proj", expert, 0 if projection == "gate" else 1)


def unstack(name: str, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A parameter as the checkpoint's tensors (views): many for stacked experts, itself otherwise."""
    prefix, _, last = name.rpartition(".")
    if not prefix.endswith(".experts"):
        yield name, parameter
        return
    for expert, row in enumerate(parameter):
        if last == "down_proj":
            yield f"{prefix}.{expert}.down_proj.weight", row
        else:
            gate, up = row.chunk(2, dim=0)
            yield f"{prefix}.{expert}.gate_proj.weight", gate
            yield f"{prefix}.{expert}.up_proj.weight", up
