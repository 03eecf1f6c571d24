"""What a budget buys: for each model the cheapest hardware, and how much training, RL or serving the money is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from doran.arch.config import ModelConfig
from doran.arch.count import parameters
from doran.base.errors import ConfigError
from doran.plan.hardware import Hardware
from doran.plan.jobs import Job, Rl, Setup, grpo, serving_instance, train
from doran.plan.prices import Budget, Prices
from doran.plan.serving import price_per_million
from doran.plan.table import count, table

STANDARD = ("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b", "qwen2.5-14b", "qwen2.5-32b")
TRACE = 5355  # mean tokens of R1's 800,000 samples (R1 v2 table 5)
USER_SPEED = 10.0  # tokens a second each user of a server shall get
RL_STEP = Rl(steps=1, samples_per_step=512, prompt_tokens=200, completion_tokens=2000, longest=8000)
READ = ("model", "device", "SFT traces", "GRPO steps", "pretraining tokens", "tokens served")


@dataclass(frozen=True, kw_only=True)
class Bought:
    """Amounts that one budget buys for one model on one kind of device. `served`: output tokens at USER_SPEED."""

    model: str
    hardware: str
    devices: int
    traces: float
    rl_steps: float
    pretrain_tokens: float
    compute_optimal: float  # share of the 20 tokens a parameter (Chinchilla) that a base model wants
    served: float

    def row(self) -> list[str]:
        """As text."""
        device = f"{self.devices} x {self.hardware}"
        base = f"{count(self.pretrain_tokens)} ({self.compute_optimal:.2g}x)"
        return [self.model, device, count(self.traces), count(self.rl_steps), base, count(self.served)]


def fraction(budget: Budget, job: Job, prices: Prices) -> float:
    """How many times the budget covers the job."""
    usd = budget.usd(prices)
    if usd is not None:
        return usd / job.usd if job.usd else float("inf")
    return budget.amount / (job.seconds / 3600 if budget.unit == "hours" else job.kwh)


def buys(budget: Budget, name: str, config: ModelConfig, setup: Setup) -> Bought:
    """What `budget` buys for this model on this hardware. ConfigError where it fits on none of it."""
    tuned = train("sft", config, setup, 1e6 * TRACE, TRACE)
    learnt = grpo(config, setup, RL_STEP)
    based = train("pretrain", config, setup, 1e12, 4096)
    instance = serving_instance(config, setup, setup.devices or 64, TRACE)
    users = instance.users(TRACE, USER_SPEED)
    each = 0.0
    if users:
        rate = instance.decode(users, TRACE)
        each = _served(budget, setup, instance.devices, rate)
    tokens = 1e12 * fraction(budget, based, setup.prices)
    return Bought(
        model=name, hardware=setup.hardware.slug, devices=tuned.devices,
        traces=1e6 * fraction(budget, tuned, setup.prices),
        rl_steps=fraction(budget, learnt, setup.prices), pretrain_tokens=tokens,
        compute_optimal=tokens / (20 * parameters(config).active), served=each,
    )  # fmt: skip


def _served(budget: Budget, setup: Setup, devices: int, rate: float) -> float:
    usd = budget.usd(setup.prices)
    if usd is not None:
        return usd / price_per_million(setup.prices.per_hour(setup.hardware), devices, rate) * 1e6
    hours = budget.amount if budget.unit == "hours" else budget.amount / setup.prices.kwh(setup.hardware, devices)
    return hours * 3600 * rate


def afford(
    budget: Budget, models: Sequence[tuple[str, ModelConfig]], hardware: Sequence[Hardware], setups: dict[str, Setup]
) -> list[Bought]:
    """One row a model, on the hardware where the budget buys most SFT; models that fit on none are left out."""
    rows = []
    for name, config in models:
        found = []
        for device in hardware:
            try:
                found.append(buys(budget, name, config, setups[device.slug]))
            except ConfigError:
                continue
        if found:
            rows.append(max(found, key=lambda bought: bought.traces))
    return rows


def render_afford(budget: Budget, prices: Prices, rows: Sequence[Bought]) -> str:
    """The answer to `doran plan --budget` as text."""
    usd = budget.usd(prices)
    money = f" = {usd:,.2f} USD at {prices.krw_per_usd:,.0f} KRW" if usd is not None and budget.unit == "KRW" else ""
    lines = [f"{budget}{money} buys one of these (estimates; prices: {prices.where}):", ""]
    lines += table([list(READ), *(row.row() for row in rows)])
    lines += [
        "",
        f"SFT traces: of {TRACE:,} tokens, each seen once.   GRPO steps: of {RL_STEP.samples_per_step} completions of "
        f"{RL_STEP.completion_tokens:,} tokens.",
        "pretraining tokens: in brackets, as a share of the 20 tokens a parameter that a base model wants.",
        f"tokens served: output tokens of a server whose users get {USER_SPEED:.0f} tokens a second each.",
    ]
    return "\n".join(lines) + "\n"
