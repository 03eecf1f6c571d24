"""DAPO's soft overlong punishment (2503.14476 s3.4): a reward term that fades in before the hard length limit."""

from __future__ import annotations


def overlong_penalty(length: int, max_length: int, cache: int) -> float:
    """0 up to `max_length - cache` tokens, then linearly down to -1 at `max_length`, -1 beyond.

    DAPO uses max_length 20,480 and cache 4,096: 16,384 -> 0, 18,432 -> -0.5, 20,480 -> -1.
    """
    if length <= max_length - cache:
        return 0.0
    if length > max_length or cache <= 0:
        return -1.0
    return (max_length - cache - length) / cache
