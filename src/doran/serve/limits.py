"""When a thought has lasted long enough: a limit in tokens or seconds, or a loop. Counts; closing is reply.py's.

A loop is a tail that repeats itself with a period of up to 64 tokens, six times or more and for at least 96 tokens: a
list of similar lines is none, since its lines differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAX_PERIOD, MIN_REPEATS, MIN_TOKENS = 64, 6, 96
EVERY = 16  # tokens between two looks
PATIENCE = 8  # tokens a thought may go on beyond its limit to finish a character


@dataclass(frozen=True)
class Limits:
    """Of one request. None: no limit. Seconds count from its first token."""

    thought_tokens: int | None = None
    thought_seconds: float | None = None
    seconds: float | None = None
    loop_guard: bool = True
    clock: Callable[[], float] = time.monotonic


def find_loop(
    tokens: Sequence[int], repeats: int = MIN_REPEATS, least: int = MIN_TOKENS, end: int | None = None
) -> int | None:
    """The period with which the tail of tokens[:end] repeats, or None."""
    end = len(tokens) if end is None else end
    if end < least or tokens[end - 1] not in tokens[max(0, end - 1 - MAX_PERIOD) : end - 1]:
        return None  # nearly always
    for period in range(1, MAX_PERIOD + 1):
        start = end - max(least, period * repeats)
        if start < 0:
            break
        if tokens[end - 1] == tokens[end - 1 - period] and tokens[start + period : end] == tokens[start : end - period]:
            return period
    return None
