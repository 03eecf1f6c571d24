"""Joining the processes that torchrun started, and leaving them with one word about what went wrong.

The first process that fails says why; the others, who then wait for it in vain, leave in silence with its exit code.
Not here: starting processes (torchrun's work), what they do together (world.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any

from doran.base.errors import DoranError
from doran.parallel import launched
from doran.parallel.world import SOLO, Parallel, World

PATIENCE = timedelta(days=7)  # the first process may evaluate for hours; one that dies is noticed at once
_BLAME = "doran/failed"


class EndedElsewhere(DoranError):
    """Another process of this run has failed, and has said so. Nothing is left to say."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this run has failed")
        self.exit_code = exit_code


def here(parallel: Parallel = SOLO.parallel) -> World:
    """The world this process has joined, dividing its work so; a world of one where it is alone."""
    if not launched():
        return World(parallel=parallel)
    import torch.distributed as dist

    known = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return World(*known, parallel)


@contextmanager
def joined() -> Iterator[World]:
    """Inside, the processes are one world, and only the first has a stdout and a stderr.

    An error leaves as it is from the process that failed first, and as EndedElsewhere from the others.
    """
    import torch
    import torch.distributed as dist

    store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    world = here()
    try:
        with ExitStack() as quiet:
            if not world.first:
                nowhere = quiet.enter_context(open(os.devnull, "w"))
                quiet.enter_context(redirect_stdout(nowhere))
                quiet.enter_context(redirect_stderr(nowhere))
            yield world
            dist.barrier()
    except BaseException as error:
        blamed = _blame(store, world, error)
        if blamed is not None:
            raise EndedElsewhere(blamed) from None
        raise
    dist.destroy_process_group()


def _blame(store: Any, world: World, error: BaseException) -> int | None:
    """The exit code of the process that failed before this one; None: this one is the first."""
    code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
    mine = f"{world.rank} {code}"
    try:
        said = store.compare_set(_BLAME, "", mine).decode()
    except Exception:  # the store went with the process that kept it: that one has spoken
        return 1
    return None if said == mine else int(said.split()[1])
