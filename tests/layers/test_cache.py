"""Slots: sizes, prefix copies, moves."""

from __future__ import annotations

import pytest
import torch

from doran.arch import presets
from doran.arch.count import cache_bytes_per_token
from doran.layers.cache import Cache, KVCache, LatentCache, make_cache


def _filled(family: str) -> Cache:
    cache = make_cache(presets.tiny(family), 5, 7)
    for tensor in cache.tensors:
        tensor.copy_(torch.randn(tensor.shape))
    return cache


@pytest.mark.parametrize(("family", "kind"), [("deepseek_v3", LatentCache), ("llama", KVCache)])
def test_the_cache_has_the_size_that_was_counted(family: str, kind: type) -> None:
    cache = make_cache(presets.tiny(family), 3, 9, torch.bfloat16)
    assert isinstance(cache, kind)
    assert (cache.num_slots, cache.capacity, cache.dtype) == (3, 9, torch.bfloat16)
    assert cache.bytes_per_token == cache_bytes_per_token(presets.tiny(family), 2)


def test_deepseek_v3_keeps_70272_bytes_a_token() -> None:  # r1-facts 8.3
    with torch.device("meta"):
        cache = make_cache(presets.deepseek_v3(), 2, 4, torch.bfloat16)
    assert cache.bytes_per_token == 70_272


@pytest.mark.parametrize("family", ["deepseek_v3", "llama"])
def test_a_prefix_goes_to_every_slot_of_the_group_and_no_further(family: str) -> None:
    cache = _filled(family)
    before = [t.clone() for t in cache.tensors]
    cache.copy_prefix(1, range(1, 4), 3)
    for tensor, old in zip(cache.tensors, before):
        rows, old_rows = tensor.movedim(cache.token_axis, 2), old.movedim(cache.token_axis, 2)
        for slot in (1, 2, 3):
            assert torch.equal(rows[:, slot, :3], old_rows[:, 1, :3])
            assert torch.equal(rows[:, slot, 3:], old_rows[:, slot, 3:])
        assert torch.equal(tensor[:, [0, 4]], old[:, [0, 4]])


@pytest.mark.parametrize("family", ["deepseek_v3", "llama"])
def test_a_move_copies_a_whole_slot(family: str) -> None:
    cache = _filled(family)
    before = [t.clone() for t in cache.tensors]
    cache.move(4, 2)
    for tensor, old in zip(cache.tensors, before):
        assert torch.equal(tensor[:, 2], old[:, 4])
        assert torch.equal(tensor[:, [0, 1, 3, 4]], old[:, [0, 1, 3, 4]])
