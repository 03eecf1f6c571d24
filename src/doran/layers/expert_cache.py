"""Experts that stay on disk, and a bounded memory that holds the hot ones. Knows keys and bytes, not what they mean.

A fixed pool of slots, one expert each: what is in use, being read, read ahead and kept all lies in it, so memory never
exceeds the limit. Reader threads fill slots; everything else happens in the one thread that owns the cache.

What is kept: least recently used would fail here. A token visits the layers in turn, and with fewer slots than a token
visits experts each would be thrown out just before it comes again. So the slot with the smallest sum of 2^-(age / HALF)
over its past visits goes, age in passes through the model; the sums of experts that are not held are remembered too.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields

from torch import Tensor

from doran.base.errors import UsageError
from doran.native.pages import fresh

Key = tuple[int, int]  # (layer, expert)
HALF = 64.0  # passes after which a visit counts half
READERS = 4  # threads that read; disks want several requests at once
_LARGEST = 2.0**500  # a weight at which all sums are scaled down


@dataclass
class Counts:
    """What one kind of work (prefill, decode) did. Of all visits of experts `hits` found them held, `early` found them
    read or being read ahead, `misses` began to read."""

    tokens: int = 0
    passes: int = 0
    hits: int = 0
    early: int = 0
    misses: int = 0
    bytes_read: int = 0
    wait_seconds: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """With the two figures everybody wants: hits a visit and bytes a token, 0 where nothing was done."""
        visits = self.hits + self.early + self.misses
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        rates = {"hit_rate": self.hits / max(1, visits), "bytes_read_per_token": self.bytes_read / max(1, self.tokens)}
        return found | rates


class ExpertCache:
    """`fill(key, slot)` reads one expert into a slot (uint8, `slot_bytes`), in a reader thread. Not thread safe.

    UsageError: `limit` bytes hold fewer than two experts.
    """

    def __init__(
        self, fill: Callable[[Key, Tensor], None], slot_bytes: int, limit: int, total: int, read_ahead: bool = False
    ) -> None:
        self.fill, self.slot_bytes, self.total, self.read_ahead = fill, slot_bytes, total, read_ahead
        self.num_slots = min(limit // slot_bytes, total)
        if self.num_slots < 2:
            raise UsageError(
                f"an experts' cache of {limit / 2**20:.1f} MiB is too small: an expert is {slot_bytes / 2**20:.1f} MiB",
                hint=f"give it at least {-(-2 * slot_bytes // 2**20)}M, better a tenth of all experts: "
                f"{-(-total * slot_bytes // 10 // 2**20)}M",
            )
        self._slots = list(fresh(self.num_slots * slot_bytes).view(self.num_slots, slot_bytes))
        self._free = list(range(self.num_slots))
        self._held: dict[Key, int] = {}  # key -> slot, whole or being read
        self._reading: dict[Key, Future[None]] = {}
        self._pinned: set[Key] = set()  # may not be thrown out: in use, or being read
        self._ahead: set[Key] = set()
        self._worth: dict[Key, float] = {}  # discounted visits, in units that grow by 2 every HALF passes
        self._heap: list[tuple[float, Key]] = []  # (worth when pushed, key) of held ones; a worth only grows
        self._now, self._layer = 1.0, -1
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="experts")
        self.work = {"prefill": Counts(), "decode": Counts()}
        self.counts = self.work["prefill"]

    @property
    def limit(self) -> int:
        """Bytes the slots may take."""
        return self.num_slots * self.slot_bytes

    def count_as(self, work: str) -> None:
        """What follows is counted under `prefill` or `decode`."""
        self.counts = self.work[work]

    def visit(self, keys: Sequence[Key], rows: int) -> Iterator[tuple[Key, Tensor]]:
        """All `keys` (of one layer, for `rows` tokens) with their bytes, the ones at hand first, each once. A slot may
        be read until the next is asked for. Reading begins at once, not with the first `next`.

        ArtifactError: a file failed; the cache stays usable.
        """
        self._tick(keys[0][0], rows)
        self._sweep(set(keys))
        early = {key for key in keys if key in self._reading or key in self._ahead and key in self._held}
        there = [key for key in keys if key in self._held and key not in self._reading]
        self._ahead = set()
        self.counts.early += len(early)
        self.counts.hits += sum(key not in early for key in there)
        for key in keys:
            self._worth[key] = self._worth.get(key, 0.0) + self._now
        self._pinned.update(there)
        todo = deque(key for key in keys if key not in self._held)
        self.counts.misses += len(todo)
        mine = {key for key in keys if key in self._reading}
        self._submit(todo, mine)
        return self._serve(there, todo, mine)

    def ahead(self, keys: Iterable[Key]) -> None:
        """The next visit will probably want these: read them when the disk has nothing else to do. A third of the slots
        at most; what has not begun when the next visit wants other things is dropped."""
        for key in keys:
            if len(self._ahead) >= self.num_slots // 3:
                return
            if key not in self._held and self._start(key):
                self._ahead.add(key)

    def _tick(self, layer: int, rows: int) -> None:
        """Time passes with each pass through the model, which a layer not above the last one begins."""
        if layer > self._layer >= 0:
            self._layer = layer
            return
        self._layer = layer
        self.counts.passes, self.counts.tokens = self.counts.passes + 1, self.counts.tokens + rows
        self._now *= 2.0 ** (1 / HALF)
        if self._now > _LARGEST:
            self._worth = {key: worth / self._now for key, worth in self._worth.items()}
            self._heap = [(worth / self._now, key) for worth, key in self._heap]
            heapq.heapify(self._heap)
            self._now = 1.0

    def _sweep(self, wanted: set[Key]) -> None:
        """Reads that nobody waited for: keep those that came, drop those that failed or that nobody needs now."""
        for key, future in list(self._reading.items()):
            if future.done():
                del self._reading[key]
                if future.exception() is not None:
                    self._free.append(self._held.pop(key))
            elif key not in wanted and future.cancel():
                del self._reading[key]
                self.counts.bytes_read -= self.slot_bytes
                self._free.append(self._held.pop(key))
        self._pinned = set(self._reading)

    def _serve(self, there: list[Key], todo: deque[Key], mine: set[Key]) -> Iterator[tuple[Key, Tensor]]:
        for key in there:
            yield key, self._slots[self._held[key]]
            self._pinned.discard(key)
            self._submit(todo, mine)
        while mine or todo:
            for key in self._wait(mine):
                yield key, self._slots[self._held[key]]
                self._pinned.discard(key)
                self._submit(todo, mine)
            self._submit(todo, mine)

    def _wait(self, mine: set[Key]) -> list[Key]:
        """Those of `mine` that have come, at least one. If it is empty, others' reads hold all slots: waits for one."""
        if not mine:
            wait(self._reading.values(), return_when=FIRST_COMPLETED)
            self._sweep(set())
            return []
        began = time.perf_counter()
        wait([self._reading[key] for key in mine], return_when=FIRST_COMPLETED)
        self.counts.wait_seconds += time.perf_counter() - began
        ready = [key for key in mine if self._reading[key].done()]
        for key in ready:
            self._reading[key].result()  # raises what the reader raised; the next visit drops what is left
        for key in ready:
            del self._reading[key]
        mine.difference_update(ready)
        return ready

    def _submit(self, todo: deque[Key], mine: set[Key]) -> None:
        while todo and self._start(todo[0]):
            mine.add(todo.popleft())

    def _start(self, key: Key) -> bool:
        """Begin to read `key`, if a slot can be had."""
        if not self._free and not self._evict():
            return False
        slot = self._held[key] = self._free.pop()
        self._pinned.add(key)
        self.counts.bytes_read += self.slot_bytes
        heapq.heappush(self._heap, (self._worth.get(key, 0.0), key))
        self._reading[key] = self._threads.submit(self.fill, key, self._slots[slot])
        return True

    def _evict(self) -> bool:
        """Free the slot of the least worth that is not pinned; False where all are. A worth in the heap may be old,
        hence too small: what has grown goes back."""
        passed: list[Key] = []
        found = False
        while self._heap and not found:
            worth, key = heapq.heappop(self._heap)
            if key not in self._held:
                continue
            if key in self._pinned:
                passed.append(key)
            elif self._worth.get(key, 0.0) > worth:
                heapq.heappush(self._heap, (self._worth[key], key))
            else:
                self._free.append(self._held.pop(key))
                found = True
        for key in passed:
            heapq.heappush(self._heap, (self._worth.get(key, 0.0), key))
        return found
