"""A model served with its experts on disk: bytes and seconds of one token, one stream. Closed form, nothing measured.

    expert visits = MoE layers * experts a token;  reads = visits * (1 - hit rate)
    seconds = reads * expert bytes / disk bandwidth (disk)
    + visits * bytes moved in memory / memory bandwidth (experts: expanded where stored otherwise, multiplied, counted)
            + all that stays in memory, read once / memory bandwidth, and the fixed cost of operations (resident)

Nothing is assumed to overlap: the engine reads while it computes, so the truth lies between this sum and the larger of
disk and the rest (`fastest`). Without a measured hit rate routing is taken as uniform: the share of experts held.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from doran.arch.config import ModelConfig
from doran.arch.count import cache_bytes_per_token, parameters
from doran.base.errors import ConfigError, suggest
from doran.plan.hardware import Efficiency, Hardware
from doran.plan.kernels import OPS_FORWARD, Speed, layer_kinds, layer_matmuls
from doran.plan.memory import RUNTIME
from doran.plan.table import size

STORED = {"fp32": 4.0, "bf16": 2.0, "fp8": 1 + 4 / 128**2, "int8": 8.5 / 8, "int4": 4.5 / 8}  # bytes a weight
# Bytes moved in memory for a weight: expanded to bf16 at each visit (read, written, gate and up joined), or packed for
# the native products at each read.
EXPANDED = {"fp8": 6.0, "fp32": 6.0}
PACKED = 20.0
PRODUCT = 0.18  # of the memory bandwidth: torch's bf16 product with one row (7 to 10 of 50 GB/s); our packed ones: all
READ_OPS = 20  # fixed cost of one read in operations: a future, a thread, the books of the cache
RELEASED = {"deepseek-v3": "fp8", "deepseek-r1": "fp8"}  # how the released folders of our presets hold their experts
EXPERT_OPS = 24  # operations for one expert; FP8 five more for each 128 rows


@dataclass(frozen=True, kw_only=True)
class FromDisk:
    """One stream. `cache`: bytes for experts. `hit_rate`: share of visits found in it; None: uniform routing's."""

    config: ModelConfig
    hardware: Hardware
    efficiency: Efficiency
    cache: float
    stored: str = "fp8"
    hit_rate: float | None = None

    def __post_init__(self) -> None:
        if self.stored not in STORED:
            raise ConfigError(f"experts stored as {self.stored!r}", hint=suggest(self.stored, STORED))
        if not self.num_experts:
            raise ConfigError("this model has no routed experts to leave on disk", hint="leave --experts-cache out")
        if self.cache < 2 * self.expert_bytes:
            raise ConfigError(
                f"a cache of {size(self.cache)} is too small: an expert has {size(self.expert_bytes)}",
                hint="give room for two experts, better a tenth of all",
            )
        if self.hit_rate is not None and not 0 <= self.hit_rate <= 1:
            raise ConfigError(f"hit rate {self.hit_rate:g}", hint="give a share between 0 and 1")

    @property
    def packed(self) -> bool:
        """Do the native products run, on what `doran quantize` wrote?"""
        return self.stored in ("int8", "int4")

    @property
    def moe_layers(self) -> int:
        """Layers with experts; the MTP module is not used."""
        return layer_kinds(self.config).get(True, 0)

    @property
    def num_experts(self) -> int:
        """Routed experts of the whole model."""
        return self.moe_layers * self.config.n_routed_experts

    @property
    def expert_weights(self) -> int:
        """Weights of one expert."""
        return 3 * self.config.hidden_size * self.config.moe_intermediate_size

    @property
    def expert_bytes(self) -> float:
        """Bytes of one expert on disk and in the cache."""
        return self.expert_weights * STORED[self.stored]

    @property
    def visits(self) -> int:
        """Experts that one token visits."""
        return self.moe_layers * self.config.num_experts_per_tok

    @property
    def held(self) -> float:
        """Share of the experts that the cache holds."""
        return min(1.0, self.cache // self.expert_bytes / self.num_experts)

    @property
    def hits(self) -> float:
        """Share of visits that need no reading."""
        return self.held if self.hit_rate is None else self.hit_rate

    @cached_property
    def resident_weights(self) -> int:
        """Parameters outside the routed experts."""
        counts = parameters(self.config)
        return counts.total - counts.by_part["experts"]

    @property
    def resident_bytes(self) -> float:
        """What stays in memory: packed where we quantised, else bf16."""
        return self.resident_weights * (STORED[self.stored] if self.packed else 2.0)

    def memory(self, context: float) -> float:
        """Bytes of the whole process."""
        return self.resident_bytes + self.cache + context * cache_bytes_per_token(self.config, 2) + RUNTIME

    def bytes_read(self) -> float:
        """From disk, for one token."""
        return self.visits * (1 - self.hits) * self.expert_bytes

    def seconds(self, context: float) -> dict[str, float]:
        """Of one token: disk, experts, resident."""
        speed = Speed(hardware=self.hardware, efficiency=self.efficiency, dtype="bfloat16")
        rows = self.config.moe_intermediate_size * 2 + self.config.hidden_size
        operations = EXPERT_OPS + (5 * rows / 128 if self.stored == "fp8" else 0) + READ_OPS * (1 - self.hits)
        moved = PACKED * (1 - self.hits) if self.packed else EXPANDED.get(self.stored, 0.0)
        expand = speed.stream(self.expert_weights * moved)
        product = self._product(speed, self.expert_weights * (STORED[self.stored] if self.packed else 2.0))
        return {
            "disk": self.bytes_read() / self.hardware.disk_bandwidth,
            "experts": self.visits * (expand + product + operations * speed.call),
            "resident": self._resident(speed, context),
        }

    def tokens_per_second(self, context: float) -> float:
        """Nothing overlaps."""
        return 1 / sum(self.seconds(context).values())

    def fastest(self, context: float) -> float:
        """Reading and computing overlap wholly."""
        parts = self.seconds(context)
        return 1 / max(parts["disk"], parts["experts"] + parts["resident"])

    def facts(self, context: float) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "hardware": self.hardware.name, "disk_bandwidth": self.hardware.disk_bandwidth,
            "memory_bandwidth": self.hardware.memory_bandwidth, "stored": self.stored, "cache_bytes": self.cache,
            "disk_bytes": self.num_experts * self.expert_bytes, "expert_bytes": self.expert_bytes,
            "experts_held": self.held, "hit_rate": self.hits, "bytes_read_per_token": self.bytes_read(),
            "memory_bytes": self.memory(context), "seconds_per_token": self.seconds(context),
            "tokens_per_second": self.tokens_per_second(context), "fastest_tokens_per_second": self.fastest(context),
        }  # fmt: skip

    def _resident(self, speed: Speed, context: float) -> float:
        """Attention, dense and shared feed-forward, router and head: each byte once, and the fixed cost of operations.
        Of the embedding one row is read."""
        table = self.config.vocab_size * self.config.hidden_size * self.resident_bytes / self.resident_weights
        read = self.resident_bytes - (0 if self.config.tie_word_embeddings else table)
        products = sum(n * len(layer_matmuls(self.config, moe)) for moe, n in layer_kinds(self.config).items())
        operations = self.config.num_hidden_layers * OPS_FORWARD + products
        cache = speed.stream(context * cache_bytes_per_token(self.config, 2))
        return self._product(speed, read) + cache + operations * speed.call

    def _product(self, speed: Speed, nbytes: float) -> float:
        return speed.stream(nbytes) if self.packed else nbytes / (self.hardware.memory_bandwidth * PRODUCT)


def text(name: str, plan: FromDisk, context: int) -> str:
    """A plan for a terminal, with its assumptions."""
    facts, parts = plan.facts(context), plan.seconds(context)
    cold = replace(plan, hit_rate=0.0)
    how = "routing taken as uniform" if plan.hit_rate is None else "as measured"
    short = facts["memory_bytes"] > plan.hardware.memory
    fits = f" (MORE than the {size(plan.hardware.memory)} there are)" if short else ""
    lines = [
        f"model       {name}: {plan.num_experts:,} experts of {size(plan.expert_bytes)} ({plan.stored}) on disk, "
        f"{size(facts['disk_bytes'])} in all",
        f"hardware    {plan.hardware.name}: disk {plan.hardware.disk_bandwidth / 1e9:.2f} GB/s, "
        f"memory {plan.hardware.memory_bandwidth / 1e9:.1f} GB/s",
        f"memory      {size(facts['memory_bytes'])}: resident weights {size(plan.resident_bytes)}, "
        f"experts' cache {size(plan.cache)}{fits}",
        f"a token     visits {plan.visits} experts, {plan.hits:.0%} found in the cache ({how}), "
        f"reads {size(plan.bytes_read())}",
        "seconds     " + ", ".join(f"{part} {seconds:.3g}" for part, seconds in parts.items()),
        f"decode      {facts['tokens_per_second']:.3g} tokens/s if nothing overlaps, "
        f"{facts['fastest_tokens_per_second']:.3g} if reading and computing do wholly",
        f"range       {cold.tokens_per_second(context):.3g} tokens/s with an empty cache, "
        f"{replace(plan, hit_rate=1.0).tokens_per_second(context):.3g} if every expert is found",
        f"assumed     one stream, {context:,} tokens of context; the system's page cache holds none of the experts; "
        "the disk reads them as fast as doctor's pieces of 4 MiB; no MTP module",
    ]
    return "\n".join(lines) + "\n"
