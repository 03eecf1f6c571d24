"""A divided tensor (torch's DTensor, cut along its first axis) as a whole or as this process's part.

For code that also runs where nothing is divided: a plain tensor is its own part and its own whole. Nothing of
torch.distributed is imported until something is divided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from doran.parallel.world import World

Like = Callable[[str, torch.Size], "Tensor | None"]
"""(name, shape) -> a tensor divided as one of this name is to be, None for a whole one."""


def is_divided(t: Tensor) -> bool:
    """Does this process hold only a part of `t`?"""
    return hasattr(t, "device_mesh")


def own(t: Tensor) -> Tensor:
    """What this process holds of `t`, sharing its memory."""
    return t.to_local() if is_divided(t) else t  # type: ignore[attr-defined]


def whole(t: Tensor) -> Tensor:
    """All of `t`, on every process. Collective."""
    return t.full_tensor() if is_divided(t) else t  # type: ignore[attr-defined]


def alike(like: Any, part_: Tensor) -> Tensor:
    """The divided tensor whose part here is `part_`, divided as `like` is."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part_, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def part_of(like: Any, whole_: Tensor) -> Tensor:
    """What this process would hold of `whole_`, divided as `like` is. Tells nobody anything."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole_, like.device_mesh, like.placements, src_data_rank=None).to_local()


@torch.no_grad()
def total_norm(grads: list[Tensor], world: World) -> Tensor:
    """The norm of all gradients as one vector, parts and wholes together. Collective."""
    squares = torch.zeros(2)
    for g in grads:
        squares[int(is_divided(g))] += own(g).float().square().sum().cpu()
    world.add_up([squares[1:]])
    return squares.sum().sqrt()


@torch.no_grad()
def clip(grads: list[Tensor], limit: float, norm: Tensor) -> None:
    """Scale the gradients to `limit` where their norm is above it, as torch does."""
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for g in grads:
        own(g).mul_(scale.to(g.device))


def by_kind(params: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Wholes and parts apart: torch's optimizers take no mixture. One list where nothing is divided."""
    apart = [[p for p in params if is_divided(p) == kind] for kind in (False, True)]
    return [some for some in apart if some]
