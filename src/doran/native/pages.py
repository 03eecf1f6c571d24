"""Memory straight from the system, on large pages where there are any: fewer addresses to look up.

Not from the heap, which hands out pages that were touched before, and those stay small. Given back with its last view.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

_LARGE = 1 << 21


def fresh(size: int) -> Tensor:
    """Untouched memory (uint8), whose pages are taken when they are written."""
    mapped = mmap.mmap(-1, size + _LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            mapped.madvise(mmap.MADV_HUGEPAGE)
    block = torch.frombuffer(mapped, dtype=torch.uint8)
    skip = -block.data_ptr() % _LARGE
    return block[skip : skip + size]
