"""What things cost: rent of a device hour, electricity, the won. Amounts of money with their currency, and budgets.

The shipped prices.yaml is an example that every user should edit: a copy in ~/.config/doran/prices.yaml, or --prices.
A price that is missing or negative is an error that names it, never a silent zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from doran.base.config import load_yaml
from doran.base.errors import ConfigError, UsageError, suggest
from doran.plan.hardware import Hardware
from doran.plan.profiles import FOLDER, settings_folder

_KEYS = ("krw_per_usd", "usd_per_kwh", "overhead", "rent_usd_per_hour", "usd_per_million_tokens", "date")
CURRENCIES = {"usd": "USD", "$": "USD", "dollar": "USD", "dollars": "USD", "krw": "KRW", "₩": "KRW", "won": "KRW",
              "원": "KRW"}  # fmt: skip
UNITS = {"h": "hours", "hour": "hours", "hours": "hours", "시간": "hours", "kwh": "kwh"}


@dataclass(frozen=True, kw_only=True)
class Prices:
    """`rent`: USD for an hour of one device, by slug. `overhead`: power at the socket over power of the devices.
    `tokens`: USD for a million tokens of a model behind a server, read and written, by the model's name."""

    krw_per_usd: float
    usd_per_kwh: float
    overhead: float = 1.3
    rent: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    date: str = ""
    where: str = "prices.yaml"

    def per_hour(self, hardware: Hardware) -> float:
        """USD of one device for an hour: its rent, or for an own CPU machine without a rent its electricity."""
        if hardware.slug in self.rent:
            return self.rent[hardware.slug]
        if hardware.kind == "cpu":
            return self.kwh(hardware, 1.0) * self.usd_per_kwh
        raise ConfigError(
            f"{self.where}: no price for an hour of {hardware.slug}",
            hint=f"add rent_usd_per_hour: {{{hardware.slug}: 2.0}}",
        )

    def kwh(self, hardware: Hardware, device_hours: float) -> float:
        """Energy of device hours at the socket."""
        return device_hours * hardware.watts * self.overhead / 1000

    def krw(self, usd: float) -> float:
        """Won for dollars."""
        return usd * self.krw_per_usd


def load_prices(path: Path | None = None) -> Prices:
    """The prices in `path`, else the user's own, else the shipped example."""
    own = settings_folder() / "prices.yaml"
    path = path or (own if own.exists() else FOLDER / "prices.yaml")
    values = load_yaml(path)
    for key in values:
        if key not in _KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}", hint=suggest(key, _KEYS))
    for key in ("krw_per_usd", "usd_per_kwh"):
        if key not in values:
            raise ConfigError(f"{path}: {key} is missing", hint=f"add a line such as {key}: 1400")
    rent = values.get("rent_usd_per_hour") or {}
    if not isinstance(rent, Mapping):
        raise ConfigError(f"{path}: rent_usd_per_hour is {rent!r}", hint="give device names and prices")
    overhead = values.get("overhead", 1.3)
    tokens = _token_prices(path, values.get("usd_per_million_tokens") or {})
    figures = {**{k: values[k] for k in ("krw_per_usd", "usd_per_kwh")}, "overhead": overhead, **rent}
    for key, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise ConfigError(f"{path}: {key} is {value!r}", hint="a price is a number of zero or more")
    if values["krw_per_usd"] == 0:
        raise ConfigError(f"{path}: krw_per_usd is 0", hint="give the won for one dollar, such as 1400")
    if overhead < 1:
        raise ConfigError(f"{path}: overhead is {overhead}", hint="it is at least 1: all power at the socket")
    return Prices(
        krw_per_usd=float(values["krw_per_usd"]), usd_per_kwh=float(values["usd_per_kwh"]), overhead=float(overhead),
        rent={str(k): float(v) for k, v in rent.items()}, tokens=tokens, date=str(values.get("date", "")),
        where=str(path),
    )  # fmt: skip


def _token_prices(path: Path, given: object) -> dict[str, tuple[float, float]]:
    """{model: (read, written)} from {model: [read, written]}. ConfigError names the model."""
    found: dict[str, tuple[float, float]] = {}
    for name, pair in given.items() if isinstance(given, Mapping) else [("usd_per_million_tokens", None)]:
        two = pair if isinstance(pair, (list, tuple)) and len(pair) == 2 else (-1, -1)
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and v >= 0 for v in two):
            raise ConfigError(f"{path}: {name} is {pair!r}", hint="give prices for a million tokens: [read, written]")
        found[str(name)] = (float(two[0]), float(two[1]))
    return found


@dataclass(frozen=True)
class Budget:
    """A limit: an amount and its unit (USD, KRW, hours, kwh)."""

    amount: float
    unit: str

    def __str__(self) -> str:
        return f"{self.amount:,.0f} KRW" if self.unit == "KRW" else f"{self.amount:,.4g} {self.unit}"

    def usd(self, prices: Prices) -> float | None:
        """The limit in dollars, None when it is not money."""
        return {"USD": self.amount, "KRW": self.amount / prices.krw_per_usd}.get(self.unit)


def check_budget(text: str | None) -> str | None:
    """A recipe's `budget`, unchanged, for a pydantic validator: ValueError where it is not understood."""
    try:
        return text if text is None or parse_budget(text) else None
    except UsageError as error:
        raise ValueError(str(error)) from None


def parse_budget(text: str) -> Budget:
    """Budget from "500,000 KRW", "₩500000", "50만원", "30 USD", "$30", "12 hours" or "5 kWh"; UsageError else."""
    plain = text.strip().lower().replace(",", "").replace("_", "")
    number_and_scale = r"([+-]?(?:\d+\.?\d*|\.\d+))\s*(만|천|백만|억|[km](?=\s|$))?"
    match = re.fullmatch(rf"([^\d\s.+-]*)\s*{number_and_scale}\s*([^\d\s]*)", plain)
    if not match:
        raise UsageError(
            f"budget {text!r} is not understood", hint='write "500,000 KRW", "30 USD", "12 hours" or "5 kWh"'
        )
    sign, number, scale, word = match.groups()
    unit = (CURRENCIES | UNITS).get(word or sign)
    if unit is None or (sign and word):
        raise UsageError(f"budget {text!r} has no known unit", hint="use KRW, USD, hours or kWh")
    factor = {"만": 1e4, "천": 1e3, "백만": 1e6, "억": 1e8, "k": 1e3, "m": 1e6, None: 1.0}[scale]
    amount = float(number) * factor
    if amount <= 0:
        raise UsageError(f"budget {text!r} is not above zero", hint="give what you can spend")
    return Budget(amount, unit)
