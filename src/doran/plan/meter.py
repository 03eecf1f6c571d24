"""The meter of a run: seconds, energy and money so far, what they will be at the end, and whether a budget is used up.

Energy is measured where the machine tells (base/energy.py), else watts of the profile times seconds. The meter decides
nothing: the training loop asks `reached` after a step and stops with a checkpoint. Asked, it also lets `keep` write
down what was spent, at most every KEEP_EVERY seconds, so that a killed run does not begin its budget anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from doran.base.energy import EnergyCounter
from doran.base.errors import BudgetReached
from doran.plan.hardware import Hardware
from doran.plan.prices import Budget, Prices


@dataclass(frozen=True)
class Spent:
    """Totals. `measured`: whether all joules were. `bought_usd`: paid to others, such as for a teacher's tokens."""

    seconds: float = 0.0
    joules: float = 0.0
    measured: bool = True
    bought_usd: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        measured, bought = self.measured and other.measured, self.bought_usd + other.bought_usd
        return Spent(self.seconds + other.seconds, self.joules + other.joules, measured, bought)

    def as_dict(self) -> dict[str, Any]:
        """What seconds.json keeps."""
        bought = {"bought_usd": self.bought_usd} if self.bought_usd else {}
        return {"seconds": self.seconds, "joules": self.joules, "measured": self.measured, **bought}


@dataclass
class Meter:
    """`before`: what earlier stages and starts spent. `later`: seconds expected of the stages still to come."""

    hardware: Hardware
    prices: Prices
    budget: Budget | None = None
    before: Spent = Spent()
    later: float = 0.0
    clock: Callable[[], float] = time.monotonic
    counter: EnergyCounter = field(default_factory=EnergyCounter)
    keep: Callable[[], None] | None = None
    bought_usd: float = 0.0  # whoever buys something adds it here

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._joules = self.counter.joules()
        self._kept = self._began

    def here(self) -> Spent:
        """Spent since this meter was made."""
        seconds = self.clock() - self._began
        now = self.counter.joules()
        if now is None or self._joules is None:
            return Spent(seconds, seconds * self.hardware.watts, False, self.bought_usd)
        return Spent(seconds, now - self._joules, True, self.bought_usd)

    def so_far(self) -> Spent:
        """Spent by the whole run."""
        return self.before + self.here()

    def usd(self, spent: Spent) -> float:
        """Rent where the machine has a rent, else the electricity at the socket; and what was bought."""
        if self.hardware.slug in self.prices.rent:
            return spent.seconds / 3600 * self.prices.rent[self.hardware.slug] + spent.bought_usd
        return self.kwh(spent) * self.prices.usd_per_kwh + spent.bought_usd

    def kwh(self, spent: Spent) -> float:
        """Energy at the socket."""
        return spent.joules / 3.6e6 * self.prices.overhead

    def amount(self, spent: Spent) -> float:
        """In the budget's unit, in won without one."""
        unit = self.budget.unit if self.budget else "KRW"
        if unit == "hours":
            return spent.seconds / 3600
        if unit == "kwh":
            return self.kwh(spent)
        return self.usd(spent) if unit == "USD" else self.prices.krw(self.usd(spent))

    def shown(self, done: int, total: int | None, first: int = 0) -> dict[str, str]:
        """Two entries for the progress line: cost so far, and at the end of the run. `first`: where it began."""
        so_far = self.so_far()
        words = {"cost": self._words(self.amount(so_far))}
        if total and done > first:
            here = self.here()
            share = (total - done) / (done - first)
            rest = Spent(here.seconds * share + self.later, 0.0)
            rest = Spent(rest.seconds, rest.seconds * (here.joules / here.seconds if here.seconds else 0.0))
            words["at the end"] = "~" + self._words(self.amount(so_far + rest))
        return words

    def reached(self) -> str | None:
        """What to say when the budget is used up, else None."""
        if self.keep and self.clock() - self._kept >= KEEP_EVERY:
            self._kept = self.clock()
            self.keep()
        if self.budget is None or self.amount(self.so_far()) < self.budget.amount:
            return None
        return f"budget of {self.budget} reached: {self._words(self.amount(self.so_far()))} spent"

    def check(self) -> None:
        """BudgetReached when the budget is used up: for places where nothing needs saving."""
        if words := self.reached():
            raise BudgetReached(words, hint=CONTINUE)

    def _words(self, amount: float) -> str:
        unit = self.budget.unit if self.budget else "KRW"
        return f"{amount:,.0f} KRW" if unit == "KRW" and amount >= 10 else f"{amount:.3g} {unit}"


KEEP_EVERY = 10.0  # seconds
CONTINUE = "what is done is kept: run the same command with a larger budget to continue"
