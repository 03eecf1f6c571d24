"""Which sequences go through a model together. Knows lengths only."""

from __future__ import annotations

from collections.abc import Sequence


def by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in micro-batches of at most `budget` tokens (a longer sample goes alone), longest first.

    Longest first means the first micro-batch needs the most memory: a run that will not fit fails at once. Neighbours
    in length also share attention buckets.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups: list[list[int]] = []
    room = 0
    for i in order:
        if not groups or lengths[i] > room:
            groups.append([])
            room = budget
        groups[-1].append(i)
        room -= lengths[i]
    return groups
