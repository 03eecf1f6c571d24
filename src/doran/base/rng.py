"""Seeds from names. Not a random number generator: every stream is Python's or NumPy's own, started from a hash.

`seed_for("countdown", "train", 7)` and `seed_for("countdown", "train", 8)` are unrelated, where `seed + index` would
let neighbouring seeds share almost all their items. A stream named by its purpose is not moved by other code.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np

Part = str | bytes | int | float | bool | None


def seed_for(*parts: Part) -> int:
    """A seed in [0, 2**63) from the SHA-256 of the parts; types and borders count: ("ab", "c") is not ("a", "bc")."""
    digest = hashlib.sha256()
    for part in parts:
        kind, data = _encoded(part)
        digest.update(f"{kind}{len(data)}:".encode())
        digest.update(data)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def python_rng(*parts: Part) -> random.Random:
    """A `random.Random` of its own for these parts."""
    return random.Random(seed_for(*parts))


def numpy_rng(*parts: Part) -> np.random.Generator:
    """A NumPy generator of its own for these parts; PCG64 by name, so a new NumPy default cannot change old runs."""
    return np.random.Generator(np.random.PCG64(seed_for(*parts)))


def _encoded(part: Part) -> tuple[str, bytes]:
    if isinstance(part, bytes):
        return "b", part
    if isinstance(part, str):
        return "s", part.encode("utf-8", "surrogatepass")
    if part is None or isinstance(part, bool):
        return "c", str(part).encode()
    if isinstance(part, int | np.integer):
        return "i", str(int(part)).encode()
    if isinstance(part, float | np.floating):
        return "f", float(part).hex().encode()
    raise TypeError(f"a seed part is text, bytes, a number or None, not {type(part).__name__}")
