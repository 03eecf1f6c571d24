"""Who runs in which slot, and when: continuous batching as two queues. Pure bookkeeping, no tensors.

Running requests always occupy slots 0..N-1, so a decode step works on a dense prefix of every per-slot tensor. A
request that ends gives its slot up at once: the last running ones move into the holes (`finish` says which), and
waiting ones are admitted behind them. Admission reserves a request's whole length, so nothing ever has to be preempted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

from doran.base.errors import OutOfMemory
from doran.engine.request import Request


@dataclass(frozen=True)
class Group:
    """Requests with one prompt (the n completions of it): one prefill, then a copied prefix each."""

    requests: tuple[Request, ...]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.requests[0].prompt_ids

    @property
    def max_length(self) -> int:
        return max(r.max_length for r in self.requests)

    def split(self, size: int) -> tuple[Group, Group]:
        return Group(self.requests[:size]), Group(self.requests[size:])


@dataclass(frozen=True)
class Move:
    """Slot `src` becomes slot `dst`."""

    src: int
    dst: int


class Scheduler:
    """Two queues: `waiting` groups, longest first, and `running` requests, whose index is their slot.

    `fits(rows, length)` says whether a cache of that many slots and positions stays within the memory budget.
    """

    def __init__(self, requests: Iterable[Request], max_batch: int, fits: Callable[[int, int], bool]) -> None:
        # Longest first: neighbours are alike, so little attention is spent on padding, and no long one starts last.
        self.waiting = deque(sorted(_groups(requests), key=lambda g: -g.max_length))
        self.running: list[Request] = []
        self.max_batch = max_batch
        self.fits = fits

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def admit(self) -> list[Group]:
        """The groups to prefill now; they take the slots behind the running ones, in order.

        Admits in waves, when an eighth of the slots (or all that is left to admit) fits: a prefill of many prompts
        costs hardly more than a prefill of one. A group stays together unless it is larger than the whole batch.
        OutOfMemory if not even one request fits alone.
        """
        if not self.waiting or len(self.running) == self.max_batch:  # nearly every step
            return []
        admitted: list[Group] = []
        rows, length = len(self.running), max((r.max_length for r in self.running), default=0)
        while self.waiting:
            group = self.waiting[0]
            length = max(length, group.max_length)
            room = self._room(rows, length, len(group.requests))
            if room < len(group.requests):
                if rows or room == 0:
                    break
                group, rest = group.split(room)
                self.waiting[0] = rest
            else:
                self.waiting.popleft()
            admitted.append(group)
            rows += len(group.requests)
        if not rows and self.waiting:
            raise OutOfMemory(
                f"the cache of one sequence of {self.waiting[0].max_length} tokens exceeds the memory budget",
                hint="lower max_new_tokens, shorten the prompt or give the engine more cache_bytes",
            )
        if self.running and self.waiting and rows - len(self.running) < max(1, self.max_batch // 8):
            self.waiting.extendleft(reversed(admitted))  # not worth a prefill yet
            return []
        self.running.extend(r for g in admitted for r in g.requests)
        return admitted

    def finish(self, slots: list[int]) -> list[Move]:
        """Free these slots; the moves that make the rest dense again, in any order (no dst is another's src)."""
        kept = len(self.running) - len(slots)
        freed = set(slots)
        holes = [s for s in slots if s < kept]
        tail = [s for s in range(kept, len(self.running)) if s not in freed]
        moves = [Move(src, dst) for src, dst in zip(tail, sorted(holes), strict=True)]
        for move in moves:
            self.running[move.dst] = self.running[move.src]
        del self.running[kept:]
        return moves

    def _room(self, rows: int, length: int, wanted: int) -> int:
        """How many of `wanted` more rows fit beside `rows` if all need `length` positions."""
        room = min(wanted, self.max_batch - rows)
        while room > 0 and not self.fits(rows + room, length):
            room -= 1
        return room


def _groups(requests: Iterable[Request]) -> list[Group]:
    """Consecutive requests with the same prompt, as groups."""
    return [Group(tuple(same)) for _, same in groupby(requests, key=lambda r: r.prompt_ids)]
