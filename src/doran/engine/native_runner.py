"""The runner whose whole step is one native call (native/decoder.cpp): same face as Runner, and `run` for many steps.

Its cache is paged: blocks of 32 tokens, a table for each slot, prompts of one group shared. A request's result does not
depend on its neighbours or on the number of threads, bit for bit. Weights are packed when it is made, not seen again.
Legend: N running slots 0..N-1, V vocab_size, G prompts.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import weakref
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from doran.base.errors import OutOfMemory
from doran.engine.panels import POINTERS, Packed, covers, names, reals, sizes
from doran.engine.quant_panels import covers_packed, held_panels
from doran.engine.request import DRAFTS, PLAIN, Speculation
from doran.engine.sampler import RowParams
from doran.engine.slots import Slots
from doran.models.decoder import Decoder
from doran.native.build import library

BLOCK = 32  # tokens a block, as in native/paged.h
ROWS = 96  # most rows that pass through the layers together; more only costs cache
ROPE_ROWS = 2048  # rotary angles are made for so many positions at first, then as many as are needed
LOGITS = 1 << 22  # most numbers in one thread's logits


class Arena:
    """What outlives a call: cache memory, because the first touch of a page can cost more than all that is done with it
    later, and packed weights, because most calls see the weights of the call before.

    One runner at a time holds the memory (`take`), others get some of their own meanwhile. Not thread safe.
    """

    MOST = 1 << 29  # bytes kept; what is larger goes back to the system with its runner

    def __init__(self) -> None:
        self._kept, self._free = torch.empty(0, dtype=torch.uint8), True
        self._packed: Packed | None = None
        self._seen: tuple[int, torch.dtype] | None = None

    def take(self, size: int, owner: object) -> Tensor:
        """`size` bytes for as long as `owner` lives; what is in them is anybody's guess."""
        if not self._free or size > self.MOST:
            return torch.empty(size, dtype=torch.uint8)  # pages are taken when written
        if self._kept.numel() < size:
            self._kept = torch.empty(size, dtype=torch.uint8)
        self._free = False
        weakref.finalize(owner, self._give)
        return self._kept[:size]

    def _give(self) -> None:
        self._free = True

    def packed(self, model: Decoder, dtype: torch.dtype) -> Packed:
        """The model's packed weights; made anew when a bit of them has changed, whoever changed it and however."""
        seen = fingerprint(model), dtype
        if self._packed is None or seen != self._seen:
            self._packed, self._seen = Packed(model, dtype), seen
        return self._packed


class NativeRunner:
    """A model's packed weights and the paged cache of one engine call. Also its own `cache`, as the engine sees one."""

    def __init__(
        self,
        model: Decoder,
        cache_dtype: torch.dtype,
        dtype: torch.dtype,
        budget: int,
        max_batch: int,
        arena: Arena,
        speculation: Speculation = PLAIN,
    ) -> None:
        self.speculation = speculation
        self.config = config = model.config
        self.num_slots, self.capacity = max_batch, config.max_position_embeddings
        self.threads = torch.get_num_threads()
        self._lib = _library()
        self._packed = held_panels(model) if model.quantized else arena.packed(model, dtype)
        if speculation.drafts == "mtp":
            self._packed.with_mtp(model)
        self._rope = model.rope
        self._positions, self._used = 0, 0
        self._counts = [0, 0]
        kinds = self._packed.embed_kind, self._packed.head_kind, DRAFTS.index(speculation.drafts), self._packed.eh_kind
        self._open(sizes(config, dtype, cache_dtype, *kinds), budget, arena)

    def _open(self, shape: list[int], budget: int, arena: Arena) -> None:
        vocab_pad = -(-self.config.vocab_size // 16) * 16
        rows = max(32, min(ROWS, LOGITS // vocab_pad))  # two whole tiles of packed products
        self._vocab_pad = vocab_pad
        layers = list(self._packed.layers)
        assert len(layers) == self.config.num_hidden_layers
        if self.speculation.drafts == "mtp" and self._packed.mtp_layer is not None:
            layers.append(self._packed.mtp_layer)
        pointers = [t for layer in layers for t in layer]
        assert len(pointers) == len(POINTERS) * len(layers)
        self._lib.decoder_open.restype = ctypes.c_void_p
        handle = self._lib.decoder_open(
            (ctypes.c_int64 * len(shape))(*map(int, shape)),
            (ctypes.c_double * 4)(*reals(self.config)),
            _pointers([*self._packed.globals, None, None, *self._packed.mtp]),
            _pointers(pointers),
            ctypes.c_int64(rows),
            ctypes.c_int64(self.threads),
        )
        self._handle = ctypes.c_void_p(handle)
        weakref.finalize(self, self._lib.decoder_close, self._handle)
        self._need_positions(min(ROPE_ROWS, self.capacity))
        per_slot = -(-self.capacity // BLOCK)
        self.block_bytes = self._call("decoder_block_bytes")
        self.num_blocks = max(0, min(budget // self.block_bytes, self.num_slots * per_slot))
        self._arena = arena.take(self.num_blocks * self.block_bytes, self)
        self._call("decoder_cache", self._arena, self.num_blocks, self.num_slots, per_slot)

    # ---- the cache, as the engine sees it ------------------------------------------------------------------------

    @property
    def cache(self) -> NativeRunner:
        return self

    def fits(self, rows: int, length: int) -> bool:
        """Do that many slots of that many positions fit, were nothing shared?"""
        return rows * -(-length // BLOCK) <= self.num_blocks

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody uses."""
        return self._call("decoder_free_blocks")

    def move(self, src: int, dst: int) -> None:
        """Slot `dst` becomes slot `src`; only the table changes."""
        self._call("decoder_move", src, dst)

    def resize(self, rows: int, live: int, length: int, most: int) -> None:
        """Never needed: blocks come one by one."""
        raise AssertionError("the paged cache does not grow")

    # ---- steps -------------------------------------------------------------------------------------------------

    def prefill(self, prompts: Sequence[Sequence[int]], copies: Sequence[int], first: int) -> Tensor:
        """Fill slots first, ... with prompt g copies[g] times, computed once; logits_NV of the slots' last tokens."""
        self.only(first)
        slots = [first + before for before in accumulate(copies, initial=0)]
        self._used = slots.pop()
        self._need_positions(max(map(len, prompts)))
        tokens = [token for p in prompts for token in p]
        logits_GV = self._feed(tokens, [len(p) for p in prompts], slots, [0] * len(slots))
        for prompt, slot, count in zip(prompts, slots, copies, strict=True):
            for other in range(slot + 1, slot + count):
                self._checked(self._call("decoder_share", slot, other, len(prompt)))
        return logits_GV.repeat_interleave(torch.tensor(copies), dim=0)

    def decode(self, tokens_N: Tensor, lengths_N: Tensor) -> Tensor:
        """Feed one token to each of the slots 0..N-1, at position lengths_N; logits_NV of what comes next."""
        self.only(len(tokens_N))
        lengths = lengths_N.tolist()
        self._need_positions(max(lengths) + 1)
        return self._feed(tokens_N.tolist(), [1] * len(lengths), list(range(len(lengths))), lengths)

    def run(self, slots: Slots, count: int, most: int) -> tuple[int, list[int]]:
        """Decode and draw for slots 0..count-1 until one of them ends, at most `most` steps: the steps, who ended.

        A step gives each slot one token, or more where it speculates.
        """
        self.only(count)
        drafts = self.speculation.draft_tokens if self.speculation.drafts != "none" else 0
        self._need_positions(min(int(slots.lengths_S[:count].max()) + most * (1 + drafts) + 1, self.capacity))
        ended_N = torch.zeros(count, dtype=torch.uint8)
        p = slots.params
        columns = (
            slots.tokens_S, slots.lengths_S, slots.steps_S, slots.budget_S, slots.stops_SK, slots.uniforms_SW,
            slots.new_tokens_SW, slots.new_logprobs_SW, p.temperature_N, p.top_k_N, p.top_p_N, p.min_p_N, ended_N,
        )  # fmt: skip
        table = (ctypes.c_int64 * (len(columns) + 2))(
            *(c.data_ptr() for c in columns), slots.stops_SK.shape[1], slots.uniforms_SW.shape[1]
        )
        if drafts:
            counts, least = torch.zeros(2, dtype=torch.long), self.speculation.least_chance
            steps = self._call("decoder_speculate", count, most, drafts, least, table, counts, self.threads)
            self._counts = [a + b for a, b in zip(self._counts, counts.tolist(), strict=True)]
        else:
            steps = self._call("decoder_run", count, most, table, self.threads)
        if steps == 0:
            self._checked(-1)
        return steps, ended_N.nonzero()[:, 0].tolist()

    def take_counts(self) -> tuple[int, int]:
        """Tokens drafted and accepted since this was last asked."""
        (drafted, accepted), self._counts = self._counts, [0, 0]
        return drafted, accepted

    def _feed(self, tokens: list[int], counts: list[int], slots: list[int], past: list[int]) -> Tensor:
        """Sequences of counts[u] tokens into slots[u] behind past[u] cached ones; logits_NV of their last tokens."""
        logits = torch.empty(len(counts), self._vocab_pad)
        arrays = [torch.tensor(x) for x in (tokens, [0, *accumulate(counts)], slots, past)]
        self._checked(self._call("decoder_feed", *arrays, len(counts), logits, self.threads))
        return logits[:, : self.config.vocab_size]

    def only(self, live: int) -> None:
        """Slots from `live` on hold nothing any more: their blocks are free."""
        if live < self._used:
            self._call("decoder_release", live, self._used)
        self._used = live

    def _need_positions(self, count: int) -> None:
        if count <= self._positions:
            return
        self._positions = min(max(count, 2 * self._positions), self.capacity)
        table = self._rope.table(torch.arange(self._positions))
        self._angles = [table.cos.contiguous(), table.sin.contiguous()]
        self._call("decoder_rope", *self._angles)

    def _checked(self, status: int) -> None:
        if status < 0:
            raise OutOfMemory(
                "the cache has no block left", hint="lower max_new_tokens or give the engine more cache_bytes"
            )

    def _call(self, name: str, *args: Tensor | float | ctypes.Array) -> int:
        function = getattr(self._lib, name)
        function.restype = ctypes.c_int64
        return function(self._handle, *map(_argument, args))


def native_runner(
    model: Decoder,
    cache_dtype: torch.dtype | None,
    compute_dtype: torch.dtype | None,
    budget: int,
    max_batch: int,
    arena: Arena | None = None,
    speculation: Speculation = PLAIN,
) -> NativeRunner | None:
    """The native runner where there is a compiler and the model is covered; None otherwise. Where its MTP module alone
    is not covered there are no drafts."""
    dtype = torch.float32 if model.quantized else compute_dtype or model.dtype
    kept = cache_dtype or dtype
    covered = covers_packed(model) if model.quantized else covers(model, dtype, kept)
    if not covered or not _matches():
        return None
    if speculation.drafts == "mtp" and model.quantized and not covers_packed(model, mtp=True):
        speculation = PLAIN
    return NativeRunner(model, kept, dtype, budget, max_batch, arena or Arena(), speculation)


def _matches() -> bool:
    """Is there a native decoder, and was it built for the structs that this process fills?"""
    found = library("decoder")
    if found is None:
        return False
    found.decoder_names.restype = ctypes.c_char_p
    same = found.decoder_names().decode() == names()
    if not same:
        _tell_other_version()
    return same


@functools.cache
def _tell_other_version() -> None:
    print("doran: the native decoder's sources are of another version than this process; torch runs", file=sys.stderr)


def _library() -> ctypes.CDLL:
    found = library("decoder")
    assert found is not None
    return found


def _pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


def _argument(value: Tensor | float | ctypes.Array) -> object:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_double(value)
    return ctypes.c_int64(value) if isinstance(value, int) else value


def fingerprint(model: Decoder) -> int:
    """A hash of every parameter and buffer: all their bytes are read, nothing is trusted to announce a change."""
    tensors = [t.detach().contiguous() for t in (*model.parameters(), *model.buffers())]
    lengths = (ctypes.c_int64 * len(tensors))(*(t.numel() * t.element_size() for t in tensors))
    function = _library().decoder_fingerprint
    function.restype = ctypes.c_uint64
    count, threads = ctypes.c_int64(len(tensors)), ctypes.c_int64(torch.get_num_threads())
    return function(_pointers(tensors), lengths, count, threads)


def draw(logits_NV: Tensor, params: RowParams, uniform_N: Tensor) -> tuple[Tensor, Tensor]:
    """The native form of `sampler.sample`, which is its reference: (tokens_N, logprobs_N)."""
    (n, vocab), logits_NV = logits_NV.shape, logits_NV.contiguous()
    tokens_N, logprobs_N = torch.empty(n, dtype=torch.long), torch.empty(n)
    columns = (params.temperature_N, params.top_k_N, params.top_p_N, params.min_p_N, uniform_N, tokens_N, logprobs_N)
    _library().decoder_draw(*(_argument(x) for x in (logits_NV, vocab, n, vocab, *columns)))
    return tokens_N, logprobs_N
