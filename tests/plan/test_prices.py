"""Profiles, prices and budgets: what is read, and the one line for what is wrong."""

from __future__ import annotations

import pytest

from doran.base.errors import ConfigError, UsageError
from doran.plan.hardware import Hardware
from doran.plan.prices import Budget, load_prices, parse_budget
from doran.plan.profiles import find_hardware, save_profile, shipped


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_profile_is_whole_and_names_its_sources(name):
    hardware = find_hardware(name)
    assert hardware.slug == name and {"matmul_flops", "memory_bandwidth", "memory", "watts"} <= set(hardware.sources)


def test_the_measured_machine_is_found_again_and_unknown_ones_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="doctor --save"):
        find_hardware("this")
    made = Hardware(name="mine", slug="this", watts=11)
    save_profile(made)
    assert find_hardware("this") == made
    with pytest.raises(ConfigError, match="did you mean h800"):
        find_hardware("h80")
    (tmp_path / "bad.yaml").write_text("memory: -1\n")
    with pytest.raises(ConfigError, match="memory is -1"):
        find_hardware(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("500,000 KRW", Budget(500_000, "KRW")),
        ("50만원", Budget(500_000, "KRW")),
        ("₩500000", Budget(500_000, "KRW")),
        ("$30", Budget(30, "USD")),
        ("1.5k USD", Budget(1500, "USD")),
        ("2 hours", Budget(2, "hours")),
        ("3시간", Budget(3, "hours")),
        ("5 kWh", Budget(5, "kwh")),
    ],
)
def test_budgets_are_read_in_the_forms_people_write(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "500,000", "-3 KRW", "0 USD", "3 bananas", "$3 KRW", "many"])
def test_budgets_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match="budget"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("usd_per_kwh: 0.1\n", "krw_per_usd is missing"),
        ("krw_per_usd: -1\nusd_per_kwh: 0.1\n", "krw_per_usd is -1"),
        ("krw_per_usd: 1400\nusd_per_kwh: 0.1\nrent_usd_per_hour: {h100: -2}\n", "h100 is -2"),
        ("krw_per_usd: 1400\nusd_per_kwh: 0.1\nrents: {}\n", "unknown key 'rents'"),
    ],
)
def test_wrong_prices_are_named(tmp_path, text, words):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_prices(path)


def test_a_device_without_a_price_is_named(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text("krw_per_usd: 1400\nusd_per_kwh: 0.1\n")
    prices = load_prices(path)
    with pytest.raises(ConfigError, match="no price for an hour of h100"):
        prices.per_hour(find_hardware("h100"))
    assert prices.per_hour(find_hardware("epyc-9654")) == pytest.approx(0.36 * 1.3 * 0.1)
