"""The model's side of the engine: prefill and decode steps over one cache. Knows slots as row numbers, not as requests.

It runs the very module it is given: weights are shared, not copied (unless another compute dtype is asked for). CPU
only, like the cache. Legend: N running slots 0..N-1, V vocab_size, G prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from doran.engine.native_runner import Arena, NativeRunner, native_runner
from doran.engine.request import PLAIN, Request, Speculation
from doran.layers.attention import CacheAttend
from doran.layers.cache import Cache, make_cache
from doran.models.decoder import Decoder
from doran.models.families import empty

PREFILL_TOKENS = 8192  # most prompt tokens in one forward (a longer prompt goes alone): bounds the activations' memory
HEADROOM = 64  # positions to allocate beyond the prompt; from there the cache grows by half when it is full
ROUND = 16  # capacities, and the rows of a decode step, are multiples of it


class Runner:
    """A model and the cache of one engine call.

    `budget`: bytes the cache may take. While it grows, the old one, at most two thirds as large, is held beside it.
    """

    def __init__(
        self, model: Decoder, cache_dtype: torch.dtype | None, compute_dtype: torch.dtype | None, budget: int
    ) -> None:
        dtype = model.dtype
        as_is = model.quantized or compute_dtype in (None, dtype)
        self.model = model if as_is else cast_copy(model, compute_dtype or dtype)
        self.cache_dtype = cache_dtype or compute_dtype or dtype
        self.budget = budget
        with torch.device("meta"):
            self.bytes_per_token = make_cache(model.config, 1, 1, self.cache_dtype).bytes_per_token
        self.cache = make_cache(model.config, 0, 0, self.cache_dtype)
        self.slots_S = torch.arange(0)

    def fits(self, rows: int, length: int) -> bool:
        """Does a cache of that many slots and positions stay within the budget?"""
        return rows * _round_up(length) * self.bytes_per_token <= self.budget

    def resize(self, rows: int, live: int, length: int, most: int) -> None:
        """A cache of at least `rows` slots of `length` positions, at last `most`; the first `live` slots are kept."""
        old = self.cache
        if length > old.capacity:
            length = min(most, max(length + HEADROOM, old.capacity * 3 // 2))
        shape = max(rows, old.num_slots), _round_up(max(length, old.capacity))
        if not self.fits(
            *shape
        ):  # what earlier requests needed, rows or length, is too much together with the new need
            shape = rows, _round_up(length)
        self.cache = make_cache(self.model.config, *shape, self.cache_dtype)
        _move_in(old, self.cache, live)
        self.slots_S = torch.arange(self.cache.num_slots)

    def prefill(self, prompts: Sequence[Sequence[int]], copies: Sequence[int], first: int) -> Tensor:
        """Fill slots first, ... with prompt g copies[g] times, computed once; logits_NV of the slots' last tokens."""
        self._count_as("prefill")
        slots = [first + before for before in accumulate(copies, initial=0)][:-1]
        last_GD = torch.cat([self._prefill(prompts[a:b], slots[a:b]) for a, b in _packs(prompts)])
        for prompt, slot, count in zip(prompts, slots, copies, strict=True):
            if count > 1:
                self.cache.copy_prefix(slot, range(slot + 1, slot + count), len(prompt))
        return self.model.logits(last_GD).repeat_interleave(torch.tensor(copies), dim=0)

    def _prefill(self, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> Tensor:
        cu_seqlens = torch.tensor([0, *accumulate(len(p) for p in prompts)])
        tokens_T = torch.tensor([token for p in prompts for token in p])
        positions_T = torch.cat([torch.arange(len(p)) for p in prompts])
        h_TD = self.model(tokens_T, positions_T, CacheAttend.prefill(self.cache, slots, cu_seqlens))
        return h_TD[cu_seqlens[1:] - 1]

    def decode(self, tokens_N: Tensor, lengths_N: Tensor) -> Tensor:
        """Feed one token to each of the slots 0..N-1, at position lengths_N; logits_NV of what comes next.

        The step runs on a multiple of ROUND rows where there are so many slots: the matrix library compiles for each
        new number of rows, and running requests finish one by one. The free slots that fill it up hold nothing. Where
        experts are on disk there is no filling up: it would read some.
        """
        self._count_as("decode")
        count = len(tokens_N)
        rows = count if self.model.expert_cache is not None else min(_round_up(count), self.cache.num_slots)
        filler = tokens_N.new_zeros(rows - count)
        tokens_M, lengths_M = torch.cat((tokens_N, filler)), torch.cat((lengths_N, filler))
        attend = CacheAttend.decode(self.cache, self.slots_S[: len(tokens_M)], lengths_M)
        return self.model.logits(self.model(tokens_M, lengths_M, attend)[:count])

    def _count_as(self, work: str) -> None:
        if self.model.expert_cache is not None:
            self.model.expert_cache.count_as(work)


def make_runner(
    model: Decoder,
    cache_dtype: torch.dtype | None,
    compute_dtype: torch.dtype | None,
    budget: int,
    max_batch: int,
    arena: Arena | None = None,
    speculation: Speculation = PLAIN,
) -> Runner | NativeRunner:
    """The native runner where this model and this machine allow it, else the one that runs the model's own code, which
    does not speculate."""
    native = native_runner(model, cache_dtype, compute_dtype, budget, max_batch, arena, speculation)
    return native or Runner(model, cache_dtype, compute_dtype, budget)


def reserve(runner: Runner | NativeRunner, running: Sequence[Request], live: int, length: int) -> None:
    """Make sure that every running slot has `length` positions; the first `live` have something in them."""
    cache = runner.cache
    if len(running) > cache.num_slots or length > cache.capacity:
        runner.resize(len(running), live, length, max(r.max_length for r in running))


def cast_copy(model: Decoder, dtype: torch.dtype) -> Decoder:
    """The same model in another dtype; what must stay float32 stays, and is shared: the router, and the weights of
    norms, which are computed in float32 (the native kernel takes no others)."""
    twin = empty(model.config, dtype)
    kinds = {name: torch.float32 if _is_norm(name) else t.dtype for name, t in twin.state_dict().items()}
    twin.load_state_dict({name: t.to(kinds[name]) for name, t in model.state_dict().items()}, assign=True)
    return twin


def _is_norm(name: str) -> bool:
    return "norm" in name.split(".")[-2]


def _move_in(old: Cache, new: Cache, live: int) -> None:
    """The first `live` slots of `old` into `new`, zeros elsewhere: masked rows are read too, and 0 * NaN is NaN."""
    kept = min(old.capacity, new.capacity)
    for source, target in zip(old.tensors, new.tensors, strict=True):
        target.zero_()
        if live:
            target[:, :live].narrow(new.token_axis, 0, kept).copy_(source[:, :live].narrow(old.token_axis, 0, kept))


def _packs(prompts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Consecutive ranges of prompts with at most PREFILL_TOKENS tokens each, or of one longer prompt."""
    packs, start, tokens = [], 0, 0
    for i, prompt in enumerate(prompts):
        if i > start and tokens + len(prompt) > PREFILL_TOKENS:
            packs.append((start, i))
            start, tokens = i, 0
        tokens += len(prompt)
    return [*packs, (start, len(prompts))]


def _round_up(length: int) -> int:
    return -(-length // ROUND) * ROUND
