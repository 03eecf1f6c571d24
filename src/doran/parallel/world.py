"""The processes that train together, as one value that is handed down: who am I, how many are we, tell the others.

Every method is a no-op in a world of one (`SOLO`), so trainers are written once. All but `first`, `own` and `deal` are
collective: every process calls them, in the same order. What travels between the processes of a run travels pickled,
in memory; nothing of it is ever written to a file. torch.distributed is imported where a second process is, and only
there. Starting and ending the processes: launch.py.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from doran.base.config import StrictModel

T = TypeVar("T")
BUCKET = 1 << 24
"""Gradient numbers that travel in one message: enough to be fast, little beside the model."""


class Parallel(StrictModel):
    """What is divided between the processes of torchrun, besides the data. It changes no result beyond rounding."""

    data: Literal["replicate", "fsdp"] = Field(
        "replicate", description="fsdp: each process holds a share of every layer's weights and optimizer (FSDP2)"
    )
    experts: Literal["replicate", "shard"] = Field(
        "replicate", description="shard: each process holds a share of the routed experts, tokens travel to them"
    )


@dataclass(frozen=True)
class World:
    """Process `rank` of `size`."""

    rank: int = 0
    size: int = 1
    parallel: Parallel = Parallel()

    @property
    def first(self) -> bool:
        """The process that writes files and shows progress."""
        return self.rank == 0

    @property
    def shards(self) -> bool:
        """Does a process hold only a part of the weights?"""
        return self.size > 1 and self.parallel != Parallel()

    def own(self, n: int) -> range:
        """This process's share of n things, in one piece."""
        return range(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def deal(self, costs: Sequence[int]) -> list[list[int]]:
        """Indices for every process, about the same cost each, in their order: the dearest first to whom has least."""
        hands: list[list[int]] = [[] for _ in range(self.size)]
        heap = [(0, rank) for rank in range(self.size)]
        for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
            held, rank = heapq.heappop(heap)
            hands[rank].append(i)
            heapq.heappush(heap, (held + costs[i], rank))
        return [sorted(hand) for hand in hands]

    def gather(self, value: T) -> list[T]:
        """Everyone's value, by rank."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def once(self, work: Callable[[], T]) -> T:
        """The first process works, everyone gets what came of it; nobody goes on before."""
        if self.size == 1:
            return work()
        import torch.distributed as dist

        value: list[Any] = [work() if self.first else None]
        dist.broadcast_object_list(value, src=0)
        return value[0]

    def spread(self, n: int, work: Callable[[range], Iterable[T]]) -> list[T]:
        """work(own share of n) on every process; everyone gets all results, in order."""
        return [value for part in self.gather(list(work(self.own(n)))) for value in part]

    def sums(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Numbers added up by name; one that a process lacks counts 0 there."""
        if self.size == 1:
            return dict(values)
        parts = self.gather({name: float(value) for name, value in values.items()})
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: sum(part.get(name, 0.0) for part in parts) for name in names}

    def highest(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The largest number under each name."""
        if self.size == 1:
            return dict(values)
        parts = self.gather({name: float(value) for name, value in values.items()})
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: max(part[name] for part in parts if name in part) for name in names}

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the sum over the processes; the same bits everywhere."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for bucket in _buckets(tensors):
            flat = torch.cat([t.flatten() for t in bucket])
            dist.all_reduce(flat)
            for t, summed in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                t.copy_(summed.view_as(t))

    def add_up_gradients(self, params: Sequence[Tensor]) -> None:
        """`add_up` for the gradients of replicated parameters; one that a process lacks counts 0 there."""
        if self.size == 1:
            return
        present = self.gather([p.grad is not None for p in params])
        for p, anywhere in zip(params, map(any, zip(*present, strict=True)), strict=True):
            if anywhere and p.grad is None:
                p.grad = torch.zeros_like(p)
        self.add_up([p.grad for p in params if p.grad is not None])

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give everyone the first process's numbers."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for t in tensors:
            dist.broadcast(t, src=0)


SOLO = World()
"""One process, as when there is no torchrun."""


def _buckets(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Runs of tensors of one type and device, about BUCKET numbers each."""
    bucket: list[Tensor] = []
    room = 0
    for t in tensors:
        alike = bucket and (t.dtype, t.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and (not alike or t.numel() > room):
            yield bucket
            bucket = []
        if not bucket:
            room = BUCKET
        bucket.append(t)
        room -= t.numel()
    if bucket:
        yield bucket
