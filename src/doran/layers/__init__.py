"""The parts of a decoder: norms, rotary positions, attention, experts and caches."""

from doran.layers.attention import Attend, CacheAttend, PackedAttend
from doran.layers.cache import KVCache, LatentCache, make_cache
from doran.layers.moe import RouterStats, update_router_bias

__all__ = [
    "Attend",
    "CacheAttend",
    "KVCache",
    "LatentCache",
    "PackedAttend",
    "RouterStats",
    "make_cache",
    "update_router_bias",
]
