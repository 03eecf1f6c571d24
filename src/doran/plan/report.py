"""One job, or one server, as text: counts, memory, time, energy, money, and what limits it. No decisions here."""

from __future__ import annotations

from typing import Any

from doran.arch.config import ModelConfig
from doran.arch.count import parameters
from doran.base.errors import ConfigError
from doran.plan.jobs import Job
from doran.plan.kernels import attention_flops, form_of, forward_flops
from doran.plan.prices import Prices
from doran.plan.serving import Serving, price_per_million
from doran.plan.table import clock, count, size


def money_line(usd: float, kwh: float, prices: Prices) -> str:
    """`cost        75.20 USD (105,280 KRW), 84.6 kWh`."""
    return f"cost        {usd:,.2f} USD ({prices.krw(usd):,.0f} KRW), {kwh:,.3g} kWh; prices: {prices.where}\n"


def model_lines(name: str, config: ModelConfig, context: int = 2048) -> list[str]:
    """Parameters and operations of one token."""
    counts = parameters(config)
    forward = forward_flops(config, context)
    forms = f"{form_of(config)} {count(attention_flops(config, context, form_of(config)))}"
    if config.is_mla:
        forms += f", absorbed {count(attention_flops(config, context, 'absorbed'))}"
    mtp = f", MTP {count(counts.mtp)} more" if counts.mtp else ""
    return [
        f"model       {name}: {count(counts.total)} parameters, {count(counts.active)} active{mtp}",
        f"a token     {count(forward)} FLOPs forward, {count(2 * forward)} backward; of that attention at {context:,} "
        f"keys: {forms}",
    ]


def job_text(name: str, config: ModelConfig, job: Job) -> str:
    """A planned job for a terminal."""
    lines = model_lines(name, config)
    lines += [
        f"job         {job.name}: {count(job.tokens)} tokens, {job.flops:.3g} FLOPs",
        f"hardware    {job.devices:,} x {job.hardware.name}",
        f"layout      {job.layout}",
        f"memory      {size(job.memory.peak)} of {size(job.hardware.memory)} a device: "
        + ", ".join(f"{part} {size(value)}" for part, value in job.memory.parts().items()),
        f"time        {clock(job.seconds)} = {job.device_hours:,.1f} device hours, MFU {job.mfu():.0%}",
    ]
    if len(job.phases) > 1:
        money = job.phase_usd()
        parts = [f"{phase} {clock(seconds)} ({money[phase]:,.2f} USD)" for phase, seconds in job.phases.items()]
        lines.append("of that     " + ", ".join(parts))
    lines += [f"limited by  {job.limit}"]
    return "\n".join(lines) + "\n" + money_line(job.usd, job.kwh, job.prices)


def serving_facts(instance: Serving, prices: Prices, context: int, speed: float) -> dict[str, Any]:
    """What a server does at `context` tokens a user, each getting `speed` tokens/s. ConfigError: does not fit."""
    alone, most = instance.memory(1, context), instance.users(context, speed)
    if alone.peak > instance.hardware.memory:
        raise ConfigError(
            f"serving needs {size(alone.peak)} a device, {instance.hardware.name} has {size(instance.hardware.memory)}",
            hint="give more --devices, a lower --precision or larger hardware",
        )
    hour = prices.per_hour(instance.hardware)
    each = instance.devices if instance.ep > 1 else 1
    one = instance.tokens_per_step() / instance.step_seconds(1, context)
    prefill = instance.prefill(context)
    facts: dict[str, Any] = {
        "hardware": instance.hardware.name, "devices": instance.devices, "context": context,
        "fastest_tokens_per_second": one, "speed_asked": speed, "users": most * each,
        "prefill_tokens_per_second": prefill,
        "usd_per_million_input": price_per_million(hour, instance.devices, prefill),
        "memory_bytes": instance.memory(max(1, most), context).parts(),
    }  # fmt: skip
    if most:
        rate = instance.decode(most, context)
        dollars = price_per_million(hour, instance.devices, rate)
        facts |= {"decode_tokens_per_second": rate, "usd_per_million_output": dollars}
    return facts


def serving_text(name: str, instance: Serving, prices: Prices, facts: dict[str, Any]) -> str:
    """A planned server for a terminal."""
    lines = model_lines(name, instance.config, facts["context"])
    lines += [
        f"hardware    {instance.devices} x {instance.hardware.name}",
        "memory      "
        + ", ".join(f"{part} {size(value)}" for part, value in facts["memory_bytes"].items())
        + " a device",
        f"prefill     {facts['prefill_tokens_per_second']:,.0f} tokens/s, "
        f"{facts['usd_per_million_input']:.3g} USD a million",
        f"one user    {facts['fastest_tokens_per_second']:,.1f} tokens/s at most",
    ]
    if facts["users"]:
        dollars = facts["usd_per_million_output"]
        lines += [
            f"users       {facts['users']:,} at {facts['speed_asked']:g} tokens/s each "
            f"with {facts['context']:,} tokens of context",
            f"decode      {facts['decode_tokens_per_second']:,.0f} tokens/s, {dollars:.3g} USD "
            f"({prices.krw(dollars):,.0f} KRW) a million when full",
        ]
    else:
        lines.append(
            f"users       none gets {facts['speed_asked']:g} tokens/s here: lower --speed or take more --devices"
        )
    return "\n".join(lines) + "\n"
