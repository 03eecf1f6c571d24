"""Samples with a loss mask made into packs. Pretraining streams come from `data.packing`; this is for SFT and GRPO.

T tokens of a pack, one document a sample. A sample of n ids gives n - 1 positions: the last id is only a target.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from doran.data.packing import Pack
from doran.parallel.world import World
from doran.train.losses import IGNORE

ROUND_TOKENS = 128
"""Packs are filled up to a multiple of so many tokens: the matrix library makes code for each new shape, once."""


def pack(
    samples: Sequence[tuple[Sequence[int], Sequence[bool]]], device: torch.device | str = "cpu", round_to: int = 1
) -> Pack:
    """One pack of (ids, loss_mask) samples of two ids or more; target i is ids[i+1], or IGNORE unless mask[i+1]."""
    tokens: list[int] = []
    targets: list[int] = []
    positions: list[int] = []
    borders = [0]
    for ids, mask in samples:
        tokens += ids[:-1]
        targets += [t if m else IGNORE for t, m in zip(ids[1:], mask[1:], strict=True)]
        positions += range(len(ids) - 1)
        borders.append(len(tokens))
    filler = -len(tokens) % round_to
    if filler:  # one more document that nobody learns from
        tokens += [0] * filler
        targets += [IGNORE] * filler
        positions += range(filler)
        borders.append(len(tokens))
    as_tensor = lambda values: torch.tensor(values, dtype=torch.long, device=device)  # noqa: E731
    return Pack(as_tensor(tokens), as_tensor(positions), as_tensor(targets), as_tensor(borders).int())


def own_part(whole: Pack, world: World, run: int = 1) -> tuple[Pack, float]:
    """(the documents of a pack that this process trains on, their share of the pack's documents).

    `run`: so many neighbours stay together, in place: a choice of every `run`-th document then chooses the same ones. A
    process without any gets two tokens that nobody learns from, and the share 0.
    """
    if world.size == 1:
        return whole, 1.0
    borders = whole.cu_seqlens.tolist()
    count = len(borders) - 1
    starts = range(0, count, run)
    hand = world.deal([borders[min(i + run, count)] - borders[i] for i in starts])[world.rank]
    documents = [d for i in hand for d in range(starts[i], min(starts[i] + run, count))]
    if not documents:
        return idle_pack(whole.tokens_T.device), 0.0
    spans = [slice(borders[d], borders[d + 1]) for d in documents]
    tokens_T, positions_T, targets_T = (
        torch.cat([x_T[span] for span in spans]) for x_T in (whole.tokens_T, whole.positions_T, whole.targets_T)
    )
    sizes = torch.tensor([0, *(span.stop - span.start for span in spans)])
    part = Pack(tokens_T, positions_T, targets_T, sizes.cumsum(0).to(whole.cu_seqlens))
    return part, len(documents) / count


def idle_pack(device: torch.device | str = "cpu") -> Pack:
    """What a process without work takes part with: two tokens, nothing to learn."""
    return pack([([0, 0, 0], [False] * 3)], device)
