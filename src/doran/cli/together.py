"""A verb run by several processes at once: `torchrun --nproc-per-node 2 -m doran.cli run recipe.yaml`.

One of them talks and writes; whoever fails first says why, once. What is divided how: parallel/world.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from doran.base.errors import UsageError
from doran.parallel.launch import EndedElsewhere, joined

VERBS = ("run", "pretrain", "sft", "rl")


def together(args: Sequence[str], work: Callable[[], int]) -> int:
    """The exit code of `work` in the world of these processes. UsageError for a verb that one process does."""
    try:
        with joined():
            if args and args[0] not in VERBS:
                raise UsageError(
                    f"doran {args[0]} is the work of one process", hint=f"torchrun is for {', '.join(VERBS)}"
                )
            return work()
    except EndedElsewhere as ended:
        return ended.exit_code
