"""What decoding remembers: one fixed slot of `capacity` tokens for each running sequence. Knows nothing of attention.

Slots are contiguous and dense, so that a decode step over slots 0..N-1 reads a view, not a copy: the engine keeps its
live sequences at the front and calls `move` when one ends. The caller owns the lengths. Rows beyond a slot's length
are stale but finite (zero at first, because 0 * NaN would leak through a mask); whoever reads masks them. L layers, S
slots, C capacity, K kv heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from doran.arch.config import ModelConfig


class Cache:
    """The part both kinds share: tensors whose axes start (L, S, ...) with C on axis `token_axis`."""

    token_axis: int

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    @property
    def num_slots(self) -> int:
        return self.tensors[0].shape[1]

    @property
    def capacity(self) -> int:
        return self.tensors[0].shape[self.token_axis]

    @property
    def dtype(self) -> torch.dtype:
        return self.tensors[0].dtype

    @property
    def bytes_per_token(self) -> int:
        """Bytes one token of one sequence takes, all layers together."""
        return sum(t.numel() * t.element_size() for t in self.tensors) // (self.num_slots * self.capacity)

    def copy_prefix(self, src_slot: int, dst_slots: Sequence[int], length: int) -> None:
        """Give each of `dst_slots` the first `length` tokens of `src_slot`: one prompt, a whole GRPO group."""
        dst = [s for s in dst_slots if s != src_slot]
        for tensor in self.tensors:
            rows = tensor.narrow(self.token_axis, 0, length)
            rows[:, dst] = rows[:, src_slot : src_slot + 1]

    def move(self, src: int, dst: int) -> None:
        """Slot `dst` becomes a copy of slot `src`, so that live slots stay at the front."""
        for tensor in self.tensors:
            tensor[:, dst] = tensor[:, src]


class LatentCache(Cache):
    """MLA's: kv_lora_rank normed latents and qk_rope_head_dim rotated key dimensions a token and layer."""

    token_axis = 2

    def __init__(self, config: ModelConfig, num_slots: int, capacity: int, dtype: torch.dtype = torch.float32) -> None:
        width = config.kv_lora_rank + config.qk_rope_head_dim
        self.rank = config.kv_lora_rank
        self.latent = torch.zeros(config.num_hidden_layers, num_slots, capacity, width, dtype=dtype)
        super().__init__(self.latent)


class KVCache(Cache):
    """Grouped-query attention's: keys and values as (L, S, K, C, head_dim), so that a head's rows lie together."""

    token_axis = 3

    def __init__(self, config: ModelConfig, num_slots: int, capacity: int, dtype: torch.dtype = torch.float32) -> None:
        shape = (config.num_hidden_layers, num_slots, config.num_key_value_heads, capacity, config.head_dim)
        self.keys, self.values = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        super().__init__(self.keys, self.values)


def make_cache(
    config: ModelConfig, num_slots: int, capacity: int, dtype: torch.dtype = torch.float32
) -> LatentCache | KVCache:
    """The cache this model's attention needs."""
    kind = LatentCache if config.is_mla else KVCache
    return kind(config, num_slots, capacity, dtype)
