"""A single verb's run (`doran sft`, `rl`, `distill`, `pretrain`): its meter, its budget, its receipt.

Not here: the stages of a recipe, which share one budget (ledger.py, pipeline.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from doran.parallel.world import SOLO, World
from doran.plan.meter import Meter
from doran.plan.prices import load_prices, parse_budget
from doran.recipes.ledger import charged, spent_in, this_machine
from doran.recipes.receipt import write_receipt


@contextmanager
def metered(
    out: Path, verb: str, seed: int, budget: str | None, inputs: Mapping[str, Path],
    notes: Mapping[str, Any] | None = None, world: World = SOLO,
) -> Iterator[Meter | None]:  # fmt: skip
    """The meter for what the block does in `out`, which exists; it goes on from what earlier starts spent there.

    Give the meter to Progress: then the loop stops at the budget. seconds.json is kept however the block ends, and
    receipt.json is written when it ended well, with `notes` as they are then; a folder that has one already is finished
    and costs nothing more.
    Of several processes only the first has one. UsageError: a budget that is not understood. BudgetReached: it was
    used up before.
    """
    if not world.first:
        yield None
        return
    limit = parse_budget(budget) if budget else None
    meter = Meter(this_machine(), load_prices(), limit, spent_in(out))
    if (out / "receipt.json").exists():
        yield meter
        return
    meter.check()
    with charged(meter, out) as total:
        yield meter
        write_receipt(out, verb, total(), seed, notes or {}, meter, inputs)
