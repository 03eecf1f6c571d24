"""A pack divided by documents: nothing lost, nothing twice, every n-th document still the same one."""

from __future__ import annotations

import torch

from doran.data.packing import Pack
from doran.parallel.world import SOLO, World
from doran.train.batch import own_part, pack
from doran.train.losses import IGNORE
from doran.train.pretrain import every

LENGTHS = (5, 9, 3, 12, 7, 4, 4)


def documents(p: Pack) -> list[tuple[int, ...]]:
    """The tokens of each."""
    borders = p.cu_seqlens.tolist()
    return [tuple(p.tokens_T[a:b].tolist()) for a, b in zip(borders, borders[1:])]


def whole() -> Pack:
    return pack([([10 * i + j for j in range(n)], [True] * n) for i, n in enumerate(LENGTHS, start=1)])


def test_the_parts_are_the_whole() -> None:
    p = whole()
    parts = [own_part(p, World(rank, 3)) for rank in range(3)]
    assert sorted(d for part, _ in parts for d in documents(part)) == sorted(documents(p))
    assert sum(share for _, share in parts) == 1.0
    for part, _ in parts:
        assert part.cu_seqlens.dtype == p.cu_seqlens.dtype and int(part.cu_seqlens[-1]) == len(part.tokens_T)
        assert torch.equal(part.positions_T == 0, torch.isin(torch.arange(len(part.tokens_T)), part.cu_seqlens[:-1]))
    assert own_part(p, SOLO) == (p, 1.0)


def test_every_second_document_stays_the_same_one() -> None:
    chosen = [documents(every(own_part(whole(), World(rank, 2), run=2)[0], 2)[1])[:-1] for rank in range(2)]
    assert sorted(d for part in chosen for d in part) == sorted(documents(whole())[::2])


def test_a_process_without_a_document_learns_nothing() -> None:
    lone = pack([([1, 2, 3], [True] * 3)])
    (a, share_a), (b, share_b) = (own_part(lone, World(rank, 2)) for rank in range(2))
    assert documents(a) == documents(lone) and share_a == 1.0
    assert share_b == 0.0 and len(b.tokens_T) == 2 and bool((b.targets_T == IGNORE).all())
