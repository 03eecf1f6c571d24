"""What a machine can do (Hardware) and which share of it a model of some width reaches (Efficiency). Measures nothing.

The caller measures (doran.base.device: matmul_peak, available_memory) or takes DEFAULT, a modest two-core machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from doran.base.errors import ConfigError, suggest

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """`matmul_flops`: FLOP/s of a large matrix product, by dtype; `memory` in bytes; `memory_bandwidth` in bytes/s.

    The default peak is two AVX2 cores at 3 GHz: 2 * 3e9 * 32 operations a cycle.
    """

    name: str = "2 CPU cores"
    cores: int = 2
    memory: int = 4 * 2**30
    memory_bandwidth: float = 15e9
    matmul_flops: Mapping[str, float] = field(default_factory=lambda: {"float32": 1.9e11, "bfloat16": 1.9e11})

    @classmethod
    def from_profile(cls, profile: Mapping[str, Any]) -> Hardware:
        """Hardware from a plain dict (a recipe's or a receipt's); missing keys keep their defaults.

        ConfigError names an unknown key or a figure that is not above zero.
        """
        known = [f.name for f in fields(cls)]
        for key in profile:
            if key not in known:
                raise ConfigError(f"hardware: unknown key {key!r}", hint=suggest(key, known))
        peaks = profile.get("matmul_flops", {})
        figures = {k: v for k, v in profile.items() if k not in ("name", "matmul_flops")} | dict(peaks)
        for key, value in figures.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigError(f"hardware: {key} is {value!r}", hint="give a number above zero")
        return cls(**dict(profile))

    def to_profile(self) -> dict[str, Any]:
        """The dict that from_profile reads."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"matmul_flops": dict(self.matmul_flops)}

    def peak(self, dtype: str) -> float:
        """FLOP/s of a large matrix product in `dtype`; the slowest known dtype where this one was not measured."""
        return self.matmul_flops.get(dtype) or min(self.matmul_flops.values())


DEFAULT = Hardware()


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """The one model of how far a real loop stays behind the matmul peak.

    share(width) = ceiling * width / (width + half_width): small matrices are overhead, large ones approach `ceiling`.
    With these defaults a width of 128 reaches 24% and 1024 reaches 54%. One measured rate replaces the guess: see
    `calibrated`.
    """

    ceiling: float = 0.66  # of the peak, for forward and backward of very wide layers
    half_width: float = 224.0  # hidden_size at which half of the ceiling is reached
    decode_share: float = 0.5  # decoding reaches this part of share(width): thin matrices, one token per sequence
    bandwidth_share: float = 0.6  # of the memory bandwidth, while weights stream through a decode step
    layer_overhead: float = 1.2e-4  # seconds per layer and decode step that no batch size takes away
    longest_to_mean: float = 2.0  # the longest completion of a batch, in mean lengths; the batch waits for it

    def share(self, width: int) -> float:
        """Share of the matmul peak that training at this hidden_size reaches."""
        return self.ceiling * width / (width + self.half_width)

    def calibrated(self, predicted_seconds: float, measured_seconds: float) -> Efficiency:
        """The same model after one measurement: everything takes measured/predicted times as long as thought."""
        factor = predicted_seconds / measured_seconds
        return replace(
            self,
            ceiling=self.ceiling * factor,
            bandwidth_share=self.bandwidth_share * factor,
            layer_overhead=self.layer_overhead / factor,
        )
