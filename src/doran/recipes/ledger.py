"""What a run has spent, over all its stages and starts, and what is still to come. Reads seconds.json; runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from doran.base.errors import DoranError
from doran.base.files import read_json, write_json
from doran.plan.hardware import DEFAULT, Hardware, standard
from doran.plan.meter import Meter, Spent
from doran.plan.prices import load_prices, parse_budget
from doran.plan.profiles import HERE, find_hardware, settings_folder
from doran.plan.recipe_file import recipe_plans
from doran.recipes.recipe import Recipe


def spent_in(folder: Path) -> Spent:
    """What a stage's folder says was spent in it; nothing where it says nothing."""
    file = folder / "seconds.json"
    if not file.exists():
        return Spent()
    kept = read_json(file)
    return Spent(
        kept["seconds"], kept.get("joules", 0.0), kept.get("measured", False), kept.get("bought_usd", 0.0)
    )  # fmt: skip


@contextmanager
def charged(meter: Meter, folder: Path) -> Iterator[Callable[[], Spent]]:
    """What the block spends goes into the folder's seconds.json, now and then, and however it ends.

    Yields the function that tells the folder's total so far, all starts together.
    """
    before = spent_in(folder)

    def total() -> Spent:
        return before + meter.here()

    meter.keep = lambda: write_json(folder / "seconds.json", total().as_dict())
    try:
        yield total
    finally:
        meter.keep()
        meter.keep = None


def this_machine() -> Hardware:
    """The profile that doctor saved, else a modest machine's."""
    return find_hardware(HERE) if (settings_folder() / "hardware.yaml").exists() else DEFAULT


@dataclass
class Ledger:
    """A run's meters, one for each stage that runs."""

    recipe: Recipe
    run_dir: Path
    hardware: Hardware = field(default_factory=this_machine)

    def __post_init__(self) -> None:
        self.prices = load_prices()
        self.budget = parse_budget(self.recipe.budget) if self.recipe.budget else None
        self.predicted: dict[str, float] = {}
        with suppress(DoranError):  # a forecast is a comfort: without one, the stages to come are left out
            plans = recipe_plans(self.run_dir / "recipe.yaml", (), self.hardware, standard(self.hardware))
            self.predicted = {plan.name: plan.total.seconds for plan in plans}

    def open(self, folder: Path, stage: str) -> Meter:
        """The meter of a stage that begins (or goes on) now."""
        folders = [path for path in (self.run_dir / "stages").glob("*") if path.is_dir()]
        before = sum((spent_in(path) for path in folders), Spent())
        return Meter(self.hardware, self.prices, self.budget, before, self._later(folders, folder, stage))

    def _later(self, folders: list[Path], folder: Path, stage: str) -> float:
        """Seconds of the stages after this one: the plan's, corrected by how wrong it was about finished ones."""
        done = {name_of(path): spent_in(path).seconds for path in folders if (path / "done.json").exists()}
        known = [name for name in done if self.predicted.get(name)]
        wrong = sum(done[n] for n in known) / sum(self.predicted[n] for n in known) if known else 1.0
        rest = [n for n in self.predicted if n not in done and n not in (stage, name_of(folder))]
        return wrong * sum(self.predicted[n] for n in rest)


def name_of(folder: Path) -> str:
    """`03-zero` -> `zero`, as stages are named."""
    return folder.name.partition("-")[2].replace("-", "_")
