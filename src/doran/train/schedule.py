"""Learning-rate schedules as pure functions of the step: no state, so nothing to save.

`wsd`: warm up, stay, decay linearly in the last part (MiniCPM 2404.06395 s4). `cosine`: warm up, then half a cosine.
`constant`: warm up, stay.
"""

from __future__ import annotations

import math
from typing import Literal

ScheduleName = Literal["wsd", "cosine", "constant"]


def lr_factor(
    step: int,
    steps: int,
    *,
    schedule: ScheduleName = "wsd",
    warmup_steps: int = 0,
    decay_fraction: float = 0.2,
    min_factor: float = 0.0,
) -> float:
    """Factor on the peak rate for update `step` of `steps` (from 0). No update has rate 0; the last is just above
    `min_factor`.

    `decay_fraction`: part of all steps that wsd spends decaying.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    start = warmup_steps if schedule == "cosine" else max(warmup_steps, round(steps * (1.0 - decay_fraction)))
    if step < start:
        return 1.0
    progress = min(1.0, (step - start + 1) / max(1, steps - start + 1))  # the end of decay lies one step past the last
    shape = 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule == "cosine" else 1.0 - progress
    return min_factor + (1.0 - min_factor) * shape
