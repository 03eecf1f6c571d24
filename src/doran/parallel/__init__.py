"""Floor 4: several processes as one trainer (torchrun). No torch in this file: one process needs no other."""

from __future__ import annotations

import os
from collections.abc import Mapping


def launched(environ: Mapping[str, str] = os.environ) -> bool:
    """Is this one of several processes that torchrun (or whoever sets its variables) started?"""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= environ.keys() and environ["WORLD_SIZE"] not in ("", "1")
