"""The experts' cache: what it keeps against a slow reference, its bound, reading ahead, and reads that fail."""

from __future__ import annotations

import random
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from doran.base.errors import UsageError
from doran.layers.expert_cache import HALF, ExpertCache, Key

SLOT = 16


def fill(key: Key, slot: Tensor) -> None:
    slot[:] = torch.tensor([key[0], key[1]] * (SLOT // 2), dtype=torch.uint8)


def cache_of(slots: int, total: int = 1000) -> ExpertCache:
    return ExpertCache(fill, SLOT, slots * SLOT, total)


def visited(cache: ExpertCache, keys: list[Key]) -> list[Key]:
    """The keys in the order they came; each slot holds its own expert's bytes."""
    order = []
    for key, slot in cache.visit(keys, 1):
        assert slot[:2].tolist() == list(key) and slot[-2:].tolist() == list(key)
        order.append(key)
    return order


def slow_misses(passes: list[list[list[Key]]], slots: int) -> int:
    """How often a key is not held, by the definition of worth, one key after the other."""
    held: list[Key] = []
    seen: dict[Key, list[int]] = {}
    misses = 0
    for now, layers in enumerate(passes):
        for keys in layers:
            for key in keys:
                seen.setdefault(key, []).append(now)
            for key in keys:
                if key in held:
                    continue
                misses += 1
                if len(held) == slots:
                    loose = [k for k in held if k not in keys]
                    held.remove(min(loose, key=lambda k: (sum(2 ** ((t - now) / HALF) for t in seen[k]), k)))
                held.append(key)
    return misses


def trace(rng: random.Random, passes: int, layers: int, experts: int, k: int, skew: float) -> list[list[list[Key]]]:
    weights = [1 / (e + 1) ** skew for e in range(experts)]

    def choose() -> list[int]:
        chosen: list[int] = []
        while len(chosen) < k:
            e = rng.choices(range(experts), weights)[0]
            chosen += [] if e in chosen else [e]
        return sorted(chosen)

    return [[[(i, e) for e in choose()] for i in range(layers)] for _ in range(passes)]


@given(seed=st.integers(0, 10**6), slots=st.integers(4, 20), skew=st.sampled_from([0.0, 1.0]))
def test_it_keeps_what_the_definition_keeps(seed: int, slots: int, skew: float) -> None:
    passes = trace(random.Random(seed), 12, 3, 8, 2, skew)
    cache = cache_of(slots)
    for layers in passes:
        for keys in layers:
            assert sorted(visited(cache, keys)) == keys
    assert cache.counts.misses == slow_misses(passes, slots)
    assert cache.counts.hits + cache.counts.misses == 12 * 3 * 2
    assert cache.counts.bytes_read == SLOT * cache.counts.misses
    assert cache.counts.passes == cache.counts.tokens == 12


def test_hot_experts_stay_although_a_token_visits_more_than_there_are_slots() -> None:
    """Least recently used would never hit here: 24 visits a token, 12 slots."""
    passes = trace(random.Random(1), 200, 12, 32, 2, 1.5)
    cache = cache_of(12)
    for layers in passes:
        for keys in layers:
            visited(cache, keys)
    assert cache.counts.as_dict()["hit_rate"] > 0.2


def test_more_experts_than_slots_come_in_turns_each_read_once() -> None:
    cache = cache_of(2)
    keys = [(0, e) for e in range(40)]
    assert sorted(visited(cache, keys)) == keys and cache.counts.misses == 40
    assert len(visited(cache, keys)) == 40 and cache.counts.misses >= 40 + 38


def test_what_was_read_ahead_is_there_and_what_was_wrong_is_harmless() -> None:
    cache = cache_of(9)
    visited(cache, [(0, 0), (0, 1)])
    cache.ahead([(1, 0), (1, 1), (1, 2), (1, 3)])  # the fourth is more than a third of the slots
    assert sorted(visited(cache, [(1, 1), (1, 2), (1, 7)])) == [(1, 1), (1, 2), (1, 7)]
    assert (cache.counts.early, cache.counts.misses) == (2, 3)
    for i in range(2, 40):  # nothing stays pinned
        assert len(visited(cache, [(i, e) for e in range(9)])) == 9
        cache.ahead([(i + 1, 3)])


def test_reads_ahead_that_hold_all_slots_are_waited_for() -> None:
    gate = threading.Event()

    def slow(key: Key, slot: Tensor) -> None:
        if key[0] == 1:
            gate.wait(5)
        fill(key, slot)

    cache = ExpertCache(slow, SLOT, 3 * SLOT, 1000)
    visited(cache, [(0, 0)])
    cache.ahead([(1, 0)])
    while not cache._reading[1, 0].running():
        time.sleep(0.001)
    coming = cache.visit([(2, 0), (2, 1), (2, 2)], 1)
    gate.set()
    assert sorted(key for key, _ in coming) == [(2, 0), (2, 1), (2, 2)]


def test_a_read_that_fails_is_the_visitors_error_and_the_next_visit_works() -> None:
    bad = {(0, 3)}

    def sometimes(key: Key, slot: Tensor) -> None:
        if key in bad:
            raise OSError("the disk is gone")
        fill(key, slot)

    cache = ExpertCache(sometimes, SLOT, 4 * SLOT, 1000)
    for _ in range(3):
        with pytest.raises(OSError, match="disk is gone"):
            list(cache.visit([(0, e) for e in range(8)], 1))
    cache.ahead([(0, 3)])
    bad.clear()
    for layer in (1, 0):
        assert len(visited(cache, [(layer, e) for e in range(8)])) == 8


def test_a_visitor_that_leaves_half_way_blocks_nothing() -> None:
    cache = cache_of(4)
    for _ in range(20):
        next(iter(cache.visit([(0, e) for e in range(8)], 1)))
    assert len(visited(cache, [(1, e) for e in range(8)])) == 8


def test_worths_are_scaled_down_before_they_overflow() -> None:
    cache = cache_of(2)
    cache._now = 2.0**499.99
    for _ in range(4):
        visited(cache, [(0, 0), (0, 1)])
        visited(cache, [(1, 0)])
    assert cache._now < 2 and all(0 < worth < 10 for worth in cache._worth.values())


def test_a_cache_for_less_than_two_experts_says_what_is_enough() -> None:
    with pytest.raises(UsageError, match="too small"):
        cache_of(1)
    assert cache_of(50, total=8).num_slots == 8
