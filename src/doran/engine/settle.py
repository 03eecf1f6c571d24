"""Weights of one layer in one block of memory, in the order in which a step reads them, on large pages where there are
any: with small ones a step spends an eighth of its time looking up addresses.

Not an allocator: a block is mapped once (native/pages.py), filled, and given back with its last view.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from doran.native.pages import fresh
from doran.native.quant import Packed

_LINE = 64


def settle(tensors: Iterable[Tensor | None], holders: nn.Module) -> list[Tensor | None]:
    """Copies of contiguous tensors in one block. Packed matrices in `holders` that are (parts of) the originals become
    parts of the copies, so that nothing is held twice."""
    given = list(tensors)
    sizes = [0 if t is None else -(-t.nbytes // _LINE) * _LINE for t in given]
    block, at = fresh(sum(sizes)), 0
    moved: dict[int, tuple[int, Tensor]] = {}
    settled: list[Tensor | None] = []
    for t, size in zip(given, sizes, strict=True):
        if t is None:
            settled.append(None)
            continue
        copy = block[at : at + t.nbytes]
        copy.copy_(t.contiguous().view(-1).view(torch.uint8))
        moved[t.untyped_storage().data_ptr()] = (t.data_ptr(), copy)
        settled.append(copy.view(t.dtype).view(t.shape))
        at += size
    for module in holders.modules():
        for name, value in vars(module).items():
            if isinstance(value, Packed) and (found := moved.get(value.data.untyped_storage().data_ptr())):
                setattr(module, name, replace(value, data=_same_part(value.data, *found)))
    return settled


def _same_part(part: Tensor, start: int, copy: Tensor) -> Tensor:
    return copy[part.data_ptr() - start :].as_strided(part.shape, part.stride())
