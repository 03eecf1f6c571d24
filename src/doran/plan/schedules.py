"""Pipeline schedules in the papers' formulas: idle time, parameter copies, micro-batches held. Played: simulate.py.

F, B, W: seconds of one micro-batch on one stage, forward, whole backward, and the backward's weight half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from doran.base.errors import ConfigError, suggest


@dataclass(frozen=True)
class Schedule:
    """`idle(p, chunks, f, b, w)`: seconds a device waits in one step beside its micro-batches' work."""

    name: str
    idle: Callable[[int, int, float, float, float], float]
    held: Callable[[int, int], float]
    parameter_copies: int = 1
    hides_experts: bool = False  # a forward and a backward pass run together, so that one's traffic hides in the other

    def micro_batches_held(self, stages: int, chunks: int = 1) -> float:
        """Micro-batches whose activations the fullest device keeps, in units of a stage's layers."""
        return self.held(stages, chunks)


SCHEDULES = {
    s.name: s
    for s in (
        # PipeDream-flush / Megatron-LM 2104.04473 s2.2
        Schedule("1f1b", lambda p, v, f, b, w: (p - 1) * (f + b), lambda p, v: p),
        # Megatron-LM 2104.04473 s2.2: v chunks a device divide the bubble by v
        Schedule("interleaved", lambda p, v, f, b, w: (p - 1) * (f + b) / v, lambda p, v: p * (1 + (p - 1) / (p * v))),
        # Zero Bubble 2401.10241, H1, as DeepSeek-V3 table 2 states it
        Schedule("zb1p", lambda p, v, f, b, w: (p - 1) * (f + b - 2 * w), lambda p, v: p),
        # DeepSeek-V3 table 2: (PP/2 - 1)(F&B + B - 3W), F&B = F + B: nothing gained side by side
        Schedule("dualpipe", lambda p, v, f, b, w: (p / 2 - 1) * (f + b + b - 3 * w), lambda p, v: p + 1, 2, True),
    )
}


def find_schedule(name: str) -> Schedule:
    """A schedule by name; ConfigError where there is none."""
    if name not in SCHEDULES:
        raise ConfigError(f"unknown pipeline schedule {name!r}", hint=suggest(name, SCHEDULES))
    return SCHEDULES[name]
