"""The meter against hand counts, with a clock and a RAPL folder of its own."""

from __future__ import annotations

import pytest

from doran.base.energy import EnergyCounter
from doran.base.errors import BudgetReached
from doran.plan.hardware import Hardware
from doran.plan.meter import Meter, Spent
from doran.plan.prices import Budget, Prices

PRICES = Prices(krw_per_usd=1000, usd_per_kwh=0.1, overhead=2.0, rent={"rented": 3.6})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def meter(tmp_path, budget=None, slug="own", before=Spent(), later=0.0):
    clock = Clock()
    hardware = Hardware(slug=slug, watts=100)
    return Meter(hardware, PRICES, budget, before, later, clock, EnergyCounter(tmp_path)), clock


def test_without_rapl_energy_is_watts_times_seconds_and_money_is_electricity(tmp_path):
    made, clock = meter(tmp_path)
    clock.now = 3600
    assert made.here() == Spent(3600, 360_000, False)
    assert made.kwh(made.here()) == pytest.approx(0.2)  # twice 100 Wh at the socket
    assert made.usd(made.here()) == pytest.approx(0.02)


def test_a_rented_machine_costs_its_rent(tmp_path):
    made, clock = meter(tmp_path, slug="rented")
    clock.now = 1000
    assert made.usd(made.here()) == pytest.approx(1.0) and made.amount(made.here()) == pytest.approx(1000)


def test_the_line_says_what_is_spent_and_what_it_will_be(tmp_path):
    made, clock = meter(tmp_path, Budget(2, "hours"), before=Spent(3600), later=1800)
    clock.now = 900
    assert made.shown(25, 100) == {"cost": "1.25 hours", "at the end": "~2.5 hours"}  # 1 + 1 for the stage + 0.5 later
    assert "at the end" not in made.shown(0, 100) and "at the end" not in made.shown(5, None)


@pytest.mark.parametrize(
    ("budget", "at"), [(Budget(1, "hours"), 3600), (Budget(2, "kwh"), 36_000), (Budget(200, "KRW"), 36_000)]
)
def test_a_budget_is_reached_in_its_own_unit(tmp_path, budget, at):
    made, clock = meter(tmp_path, budget)
    clock.now = at - 1
    assert made.reached() is None
    made.check()
    clock.now = at + 1
    assert "budget of" in str(made.reached())
    with pytest.raises(BudgetReached) as raised:
        made.check()
    assert raised.value.exit_code == 5


def test_rapl_counts_packages_once_and_over_a_wrap(tmp_path):
    package, core = tmp_path / "intel-rapl:0", tmp_path / "intel-rapl:0:0"
    for folder in (package, core):
        folder.mkdir()
        (folder / "energy_uj").write_text("900000000\n")
        (folder / "max_energy_range_uj").write_text("1000000000\n")
    counter = EnergyCounter(tmp_path)
    assert counter.available and counter.joules() == 0
    (package / "energy_uj").write_text("950000000\n")
    assert counter.joules() == pytest.approx(50)
    (package / "energy_uj").write_text("50000000\n")
    assert counter.joules() == pytest.approx(150)
    assert EnergyCounter(tmp_path / "none").joules() is None


def test_asked_after_each_step_it_keeps_what_was_spent_now_and_then(tmp_path):
    made, clock = meter(tmp_path)
    kept = []
    made.keep = lambda: kept.append(clock.now)
    for clock.now in range(25):
        made.reached()
    assert kept == [10, 20]
