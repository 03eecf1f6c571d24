"""A long run with failures: how often to checkpoint, and what the failures cost. Monte Carlo, vectorised.

A failure of any device stops all; work since the last checkpoint is done again. Failures are independent with a
constant rate (Llama 3 s3.3.4: 419 unexpected ones in 54 days on 16,384 GPUs, one per device in 5.8 years).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from doran.base.errors import ConfigError
from doran.base.rng import numpy_rng

DEVICE_MTBF = 54 * 86400 * 16384 / 419  # seconds between failures of one device


@dataclass(frozen=True, kw_only=True)
class Failing:
    """Seconds: `work` to be done, `save` of a checkpoint that stops training, `restart` until training again."""

    work: float
    devices: int
    save: float = 30.0
    restart: float = 600.0
    device_mtbf: float = DEVICE_MTBF

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"failures: {key} is {value}", hint="give a number above zero")

    @property
    def mtbf(self) -> float:
        """Seconds between failures of the whole cluster."""
        return self.device_mtbf / self.devices

    def best_interval(self) -> float:
        """Young's interval between checkpoints, sqrt(2 * save * mtbf)."""
        return math.sqrt(2 * self.save * self.mtbf)

    def expected(self, interval: float) -> float:
        """Wall clock expected with checkpoints every `interval` seconds of work (Daly's exact form).

        A segment of s = interval + save needs (mtbf + restart) * (exp(s / mtbf) - 1) on average.
        """
        segments = self.work / interval
        return segments * (self.mtbf + self.restart) * math.expm1((interval + self.save) / self.mtbf)

    def availability(self, interval: float) -> float:
        """Share of the wall clock that makes progress."""
        return self.work / self.expected(interval)


@dataclass(frozen=True)
class Runs:
    """Played runs: wall clock and number of failures of each."""

    seconds_R: np.ndarray
    failures_R: np.ndarray


def play_runs(failing: Failing, interval: float, runs: int = 64, seed: int = 0) -> Runs:
    """Play `runs` whole runs side by side, segment by segment."""
    if interval <= 0:
        raise ConfigError(f"failures: checkpoint interval is {interval}", hint="give seconds above zero")
    rng = numpy_rng("failures", seed, failing.devices)
    segments = math.ceil(failing.work / interval)
    last = failing.work - (segments - 1) * interval
    seconds_R, failures_R = np.zeros(runs), np.zeros(runs, dtype=np.int64)
    # the rate is constant, so a fresh time to the next failure may be drawn for every attempt
    for number in range(segments):
        length = (interval if number < segments - 1 else last) + failing.save
        undone_R = np.ones(runs, dtype=bool)
        while undone_R.any():
            until_R = rng.exponential(failing.mtbf, runs)
            failed_R = undone_R & (until_R < length)
            seconds_R += np.where(failed_R, until_R, np.where(undone_R, length, 0.0))
            undone_R &= failed_R
            failures_R += failed_R
            # a failure while restarting begins the restart again
            waiting_R = failed_R.copy()
            while waiting_R.any():
                until_R = rng.exponential(failing.mtbf, runs)
                again_R = waiting_R & (until_R < failing.restart)
                seconds_R += np.where(again_R, until_R, np.where(waiting_R, failing.restart, 0.0))
                failures_R += again_R
                waiting_R = again_R
    return Runs(seconds_R, failures_R)
