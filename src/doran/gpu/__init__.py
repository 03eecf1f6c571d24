"""Triton forms of what a GPU spends its time on: FP8 block products, paged MLA decoding, grouped expert products.

Each kernel file has its torch reference beside it; `tests/gpu` ties the two, without a GPU by Triton's interpreter.
Nothing here is wired into the engine, whose runners are the CPU's. Triton is no dependency: importing a kernel file
without it is an ImportError, `available()` asks first.
"""

from __future__ import annotations

import importlib.util
import os


def available() -> bool:
    """Is Triton installed, and is there a GPU for it or its interpreter (TRITON_INTERPRET=1)?"""
    if importlib.util.find_spec("triton") is None:
        return False
    import torch

    return torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
