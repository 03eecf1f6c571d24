"""The cheapest layout of a model: sensible ones tried in closed form, those that do not fit left out.

Not here: what a step costs (cluster.py) and what fits (layout.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from doran.arch.config import ModelConfig
from doran.base.errors import ConfigError
from doran.plan.cluster import Step, train_step
from doran.plan.hardware import Efficiency, Hardware
from doran.plan.layout import GPU_RUNTIME, RECOMPUTE, Layout, fits, training_bytes
from doran.plan.memory import RUNTIME, Memory
from doran.plan.table import size


@dataclass(frozen=True)
class Found:
    """A layout that fits, its step and its memory."""

    layout: Layout
    step: Step
    memory: Memory

    @property
    def device_seconds_per_token(self) -> float:
        """What cost is proportional to."""
        return self.step.seconds * self.step.devices / self.step.tokens

    def limit(self, hardware: Hardware) -> str:
        """What to change first: the largest cause after the matrix products themselves, and how full memory is."""
        causes = self.step.causes()
        whole = self.step.seconds
        worst = max((name for name in causes if name not in ("compute", "uncounted")), key=lambda name: causes[name])
        words = [f"compute {causes['compute'] / whole:.0%}"]
        if causes[worst] > 0.02 * whole:
            words.append(f"{worst.replace('_', ' ')} {causes[worst] / whole:.0%}")
        full = self.memory.peak / hardware.memory
        return ", ".join([*words, f"memory {full:.0%} full"])


def powers(limit: int) -> list[int]:
    """1, 2, 4, ... up to `limit`."""
    return [1 << k for k in range(limit.bit_length()) if 1 << k <= limit]


def layouts(config: ModelConfig, hardware: Hardware, devices: int, sequences: int) -> Iterator[Layout]:
    """Layouts of `devices` devices worth trying, recomputation not chosen yet."""
    for pp in powers(min(devices, config.num_hidden_layers)):
        for tp in (t for t in powers(min(devices // pp, hardware.per_node, config.num_attention_heads)) if t != 2):
            dp, rest = divmod(devices, pp * tp)
            if rest or dp > sequences:
                continue
            eps = powers(min(config.n_routed_experts, dp * tp)) if config.n_routed_experts else [1]
            for ep in (e for e in eps if dp * tp % e == 0 and e * 8 >= max(eps)):
                yield from _variants(config, Layout(dp=dp, tp=tp, pp=pp, ep=ep))


def _variants(config: ModelConfig, plain: Layout) -> Iterator[Layout]:
    if plain.pp == 1:
        yield from (replace(plain, zero=zero) for zero in ((1, 3) if plain.dp > 1 else (0,)))
        return
    yield replace(plain, schedule="zb1p")
    if plain.pp % 2 == 0:
        yield replace(plain, schedule="dualpipe")
    chunks = min(8, config.num_hidden_layers // plain.pp)
    if chunks > 1:
        yield replace(plain, schedule="interleaved", chunks=chunks)


def least_devices(config: ModelConfig, hardware: Hardware, precision: str) -> float:
    """Devices that weights, gradients and optimizer need however they are spread."""
    return training_bytes(config, Layout(), 1, precision).peak / hardware.memory / 1.5


def best_layout(
    config: ModelConfig,
    hardware: Hardware,
    devices: int,
    *,
    sequences: int,
    length: int,
    precision: str = "bf16",
    efficiency: Efficiency | None = None,
) -> Found | None:
    """The fastest layout that fits, or None. Less recomputation is tried first, since it is the cheaper one."""
    best: Found | None = None
    runtime = RUNTIME if hardware.kind == "cpu" else GPU_RUNTIME
    for plain in layouts(config, hardware, devices, sequences):
        for recompute in RECOMPUTE:
            layout = replace(plain, recompute=recompute)
            memory = training_bytes(config, layout, length, precision, runtime)
            if not fits(memory, hardware.memory):
                continue
            step = train_step(
                config, hardware, layout, sequences=sequences, length=length, precision=precision, efficiency=efficiency
            )
            if best is None or step.seconds < best.step.seconds:
                best = Found(layout, step, memory)
            break
    return best


def cheapest(
    config: ModelConfig,
    hardware: Hardware,
    *,
    sequences: int,
    length: int,
    precision: str = "bf16",
    devices: int | None = None,
    most: int = 4096,
    efficiency: Efficiency | None = None,
) -> Found:
    """The layout with the fewest device-seconds a token, on `devices` devices when given. ConfigError: none fits."""
    counts = [devices] if devices else powers(1 if hardware.kind == "cpu" else most)
    counts = [count for count in counts if count >= least_devices(config, hardware, precision)] or counts[-1:]
    best: Found | None = None
    for count in counts:
        found = best_layout(
            config, hardware, count, sequences=sequences, length=length, precision=precision, efficiency=efficiency
        )
        if found and (best is None or found.device_seconds_per_token < 0.98 * best.device_seconds_per_token):
            best = found
        elif best is not None:
            break  # more devices only add traffic
    if best is None:
        least = training_bytes(config, Layout(recompute="full"), length, precision)
        raise ConfigError(
            f"training needs {size(least.peak)} on one device and fits on no layout of "
            f"{f'{devices} x ' if devices else ''}{hardware.name} ({size(hardware.memory)} each)",
            hint="take more devices, a shorter length, a larger batch or a smaller model",
        )
    return best
