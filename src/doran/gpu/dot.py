"""The tile product of all kernels here."""

from __future__ import annotations

import os

import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def dot(a, b, upcast: tl.constexpr):  # type: ignore[no-untyped-def]
    """a b, summed in fp32. `upcast` multiplies in fp32 as well, to the same result: the interpreter takes the bits of a
    bf16 for a whole number."""
    if upcast:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")
