"""What a device can do (Hardware), and which share of it real work reaches (Efficiency, the one model).

Shipped figures are in profiles/*.yaml, read by profiles.py; `doran doctor` measures a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from doran.base.errors import ConfigError, suggest

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 1}
_TEXTS = ("name", "kind", "slug")
_TABLES = ("matmul_flops", "sources")
_KINDS = ("cpu", "gpu")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One device (a CPU machine or one GPU). Bytes, bytes/s, FLOP/s, watts, seconds.

    The default is two AVX2 cores at 3 GHz: 2 * 3e9 * 32 operations a cycle.
    """

    name: str = "2 CPU cores"
    slug: str = "cpu-2core"  # what prices are listed under
    kind: str = "cpu"
    cores: int = 2  # of a CPU; of a GPU its multiprocessors
    memory: int = 4 * 2**30
    memory_bandwidth: float = 15e9
    disk_bandwidth: float = 1e9  # reading pieces of some MiB here and there, nothing of them in memory yet
    matmul_flops: Mapping[str, float] = field(default_factory=lambda: {"float32": 1.9e11, "bfloat16": 1.9e11})
    op_seconds: float = 12e-6  # fixed cost of one operation (launch, dispatch), as doctor measures it
    watts: float = 65.0  # at full load, the device alone
    per_node: int = 1  # devices that share a node
    link_bandwidth: float = 10e9  # one way, per device, to the others of its node
    network_bandwidth: float = 1.25e9  # one way, per device, to other nodes
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_profile(cls, profile: Mapping[str, Any], where: str = "hardware") -> Hardware:
        """Hardware from a plain dict (a profile's or a receipt's); missing keys keep their defaults.

        ConfigError names an unknown key or a figure that is not above zero.
        """
        known = [f.name for f in fields(cls)]
        for key in profile:
            if key not in known:
                raise ConfigError(f"{where}: unknown key {key!r}", hint=suggest(key, known))
        for key in _TABLES:
            if not isinstance(profile.get(key, {}), Mapping):
                raise ConfigError(f"{where}: {key} is {profile[key]!r}", hint="give names and values")
        peaks = profile.get("matmul_flops", {})
        figures = {k: v for k, v in profile.items() if k not in (*_TEXTS, *_TABLES)} | dict(peaks)
        for key, value in figures.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigError(f"{where}: {key} is {value!r}", hint="give a number above zero")
        if profile.get("kind", "cpu") not in _KINDS:
            raise ConfigError(f"{where}: kind is {profile['kind']!r}", hint="use cpu or gpu")
        if "matmul_flops" in profile and not peaks:
            raise ConfigError(f"{where}: matmul_flops is empty", hint="give a FLOP/s for bfloat16 or float32")
        return cls(**dict(profile))

    def to_profile(self) -> dict[str, Any]:
        """The dict that from_profile reads."""
        tables = {"matmul_flops": dict(self.matmul_flops), "sources": dict(self.sources)}
        return {f.name: getattr(self, f.name) for f in fields(self)} | tables

    def peak(self, dtype: str) -> float:
        """FLOP/s of a large matrix product in `dtype`; without that type, of bfloat16, else the slowest known."""
        peaks = self.matmul_flops
        return peaks.get(dtype) or (peaks.get("bfloat16") if dtype != "float32" else None) or min(peaks.values())


DEFAULT = Hardware()


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """The one model of how far real work stays behind the data sheet; the same for every row of docs/results/plan.md.

    seconds of a matrix product = FLOPs / (peak * matmul) + bytes / (memory bandwidth * bandwidth) + op_seconds. Small
    and thin matrices are slow by their bytes and their fixed cost, not by a fudge of their own.
    Where a figure comes from is said beside it. `realised` and `overlap` are the two that no kernel benchmark gives.
    """

    matmul: float = 0.76  # DeepGEMM's H800 table, after its bytes are taken out: 1,300 of 1,979 TFLOP/s at K 7168
    attention: float = 0.60  # fused attention: FlashMLA 580 to 660 of 989, FlashAttention-3 forward about as much
    bandwidth: float = 0.80  # of memory bandwidth: FlashMLA streams 3,000 of 3,350 GB/s, plain kernels less
    link: float = 0.80  # of a link: DeepEP moves 40 of 50 GB/s between nodes
    overlap: float = 0.75  # how much of expert traffic or gathers hides behind the work beside it, 0 none, 1 all
    exchange_seconds: float = 6e-5  # an all-to-all between nodes however small (from DeepEP's table; estimate)
    comm_cores: int = 20  # multiprocessors given to expert traffic in training and prefill (V3 s3.2.2)
    plain: float = 1.0  # how often plain kernels read and write the values of a layer (1: fused, once each)
    calls: float = 1.0  # of op_seconds, per operation counted
    backward: float = 2.0  # time of a backward pass in forward passes (its FLOPs are always two)
    realised: float = 0.88  # everything uncounted: launch gaps, stragglers, expert imbalance, data
    availability: float = 0.92  # share of a long run's wall clock that trains (Llama 3 s3.3.4: above 90%)
    longest_to_mean: float = 2.0  # the longest completion of a batch, in mean lengths; the batch waits for it
    slowdown: float = 1.0  # measured over predicted, once something was measured: see `calibrated`

    def calibrated(self, predicted_seconds: float, measured_seconds: float) -> Efficiency:
        """The same model after one measurement: everything takes measured/predicted times as long as thought."""
        return replace(self, slowdown=self.slowdown * measured_seconds / predicted_seconds)


GPU = Efficiency()
# The same model with a CPU's values, fitted to the jobs of bench/plan_check.py on one machine (how well it does on
# a job left out of the fit stands there). Torch's CPU kernels are not fused, hence `plain`; nothing waits for others.
CPU = Efficiency(attention=0.90, plain=4.2, calls=1.3, backward=1.08, realised=1.0, availability=1.0)


def standard(hardware: Hardware) -> Efficiency:
    """The parameters for this kind of device."""
    return CPU if hardware.kind == "cpu" else GPU
