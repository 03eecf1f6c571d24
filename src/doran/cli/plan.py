"""`doran plan`: what a model, a job or a recipe will take in time, memory, energy and money, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from doran.base.errors import UsageError, suggest
from doran.cli.options import Json, print_json

if TYPE_CHECKING:
    from doran.plan.jobs import Job, Setup
    from doran.plan.prices import Budget, Prices

JOBS = ("pretrain", "sft", "grpo", "distill", "serve")


def main(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Preset (deepseek-v3, qwen2.5-7b, ...), folder, config.json or recipe."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to a recipe.", show_default=False)
    ] = None,
    job: Annotated[
        str, typer.Option("--job", metavar="JOB", help="pretrain, sft, grpo, distill or serve.")
    ] = "pretrain",
    on: Annotated[str, typer.Option("--on", metavar="HARDWARE", help="h800, rtx4090, this, ... or a YAML file.")] = "",
    devices: Annotated[
        int | None, typer.Option("--devices", metavar="N", min=1, help="How many; the cheapest number unless given.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", metavar="LAYOUT", help="dp=128,pp=16,ep=64,schedule=dualpipe instead.")
    ] = None,
    tokens: Annotated[
        str, typer.Option("--tokens", metavar="N", help="Training tokens, such as 10B or 14.8T.")
    ] = "10B",
    length: Annotated[int, typer.Option("--length", metavar="N", min=1, help="Tokens of a sequence or trace.")] = 4096,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="N", help="Tokens of one optimizer step, such as 4M.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", metavar="TYPE", help="fp8, bf16 or fp32; bf16 unless given. On disk int8 and int4 too."
        ),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="GRPO steps.")] = 200,
    samples: Annotated[int, typer.Option("--samples", metavar="N", min=1, help="Completions of a GRPO step.")] = 512,
    traces: Annotated[int, typer.Option("--traces", metavar="N", min=1, help="Traces to distil.")] = 10_000,
    teacher: Annotated[str, typer.Option("--teacher", metavar="MODEL", help="Who writes them.")] = "deepseek-r1",
    speed: Annotated[
        float, typer.Option("--speed", metavar="X", min=0.01, help="Tokens a second each user shall get.")
    ] = 10.0,
    experts_cache: Annotated[
        str | None,
        typer.Option("--experts-cache", metavar="SIZE", help="Serve with experts on disk, SIZE of them held."),
    ] = None,
    hit_rate: Annotated[
        float | None, typer.Option("--hit-rate", metavar="X", help="Experts found there, as --json of generate says.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="AMOUNT", help='"500,000 KRW", "30 USD", "12 hours" or "5 kWh".')
    ] = None,
    prices: Annotated[
        Path | None, typer.Option("--prices", metavar="FILE", help="Your prices; see the guide for the format.")
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option("--timeline", metavar="FILE", help="Draw one training step as SVG or HTML.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what something will cost before it runs: time, memory, energy, money. Nothing is run and nothing measured.

    For a model it finds the cheapest layout that fits and says what limits it. For a recipe it plans every stage on
    this machine (measured once by `doran doctor --save`). With --budget it answers what the money is enough for.

    Example: doran plan qwen2.5-7b --job sft --on h100 --tokens 50M --budget "500,000 KRW"
    """
    from doran.plan.prices import load_prices, parse_budget

    if job not in JOBS:
        raise UsageError(f"--job {job}: no such job", hint=suggest(job, JOBS))
    cost = load_prices(prices)
    limit = parse_budget(budget) if budget else None
    if model is None:
        if limit is None:
            raise UsageError("nothing to plan", hint='name a model or recipe, or give --budget "500,000 KRW"')
        show_affordable(None, on, devices, precision, cost, limit, as_json)
    elif model.endswith((".yaml", ".yml")):
        show_recipe(Path(model), overrides or [], on, cost, limit, as_json)
    elif experts_cache is not None:
        show_from_disk(model, on, precision, experts_cache, hit_rate, length, as_json)
    elif job == "serve":
        show_serving(model, on, devices, precision, cost, length, speed, as_json)
    else:
        setup = setup_of(on, devices, precision, cost, layout)
        planned = make_job(job, model, setup, amount(tokens), length, batch, steps, samples, traces, teacher)
        show_job(model, planned, limit, as_json)
        if limit is not None and not as_json:
            print()
            show_affordable(model, on, devices, precision, cost, limit, as_json)
        if timeline is not None:
            draw(model, setup, planned, length, batch, timeline)


def amount(text: str) -> float:
    """1e9 from "1B"; UsageError where it is no amount."""
    factors = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    plain = text.strip().upper().replace(",", "")
    factor = factors.get(plain[-1:], 1.0)
    try:
        value = float(plain[:-1] if plain[-1:] in factors else plain) * factor
    except ValueError:
        value = -1.0
    if not 0 < value < 1e20:
        raise UsageError(f"{text!r} is not an amount", hint="write a number above zero, such as 500M, 10B or 14.8T")
    return value


def setup_of(on: str, devices: int | None, precision: str | None, cost: Prices, layout: str | None = None) -> Setup:
    """The hardware and prices a job is planned with."""
    from doran.plan.jobs import Setup
    from doran.plan.layout import matmul_dtype, parse_layout
    from doran.plan.profiles import find_hardware

    hardware = find_hardware(on or "h100")
    chosen = precision or "bf16"
    matmul_dtype(chosen)
    given = parse_layout(layout) if layout else None
    return Setup(hardware=hardware, prices=cost, devices=devices, precision=chosen, layout=given)


def make_job(
    job: str, model: str, setup: Setup, tokens: float, length: int, batch: str | None, steps: int, samples: int,
    traces: int, teacher: str,
) -> Job:  # fmt: skip
    """The planned job that the options describe."""
    from doran.plan.jobs import Rl, distill, grpo, train
    from doran.plan.models import find_model

    config = find_model(model)
    if job == "grpo":
        rl = Rl(steps=steps, samples_per_step=samples, prompt_tokens=200, completion_tokens=length, longest=4 * length)
        return grpo(config, setup, rl)
    if job == "distill":
        return distill(find_model(teacher), config, setup, traces, length, 2)
    return train(job, config, setup, tokens, length, round(amount(batch)) if batch else None)


def show_job(model: str, job: Job, limit: Budget | None, as_json: bool) -> None:
    """Print a job, and whether the budget covers it."""
    from doran.plan.afford import fraction
    from doran.plan.models import find_model
    from doran.plan.report import job_text

    covered = fraction(limit, job, job.prices) if limit else None
    if as_json:
        print_json({"model": model, **job.as_dict(), **({"budget_covers": covered} if limit else {})})
        return
    print(job_text(model, find_model(model), job), end="")
    if limit and covered is not None:
        word = f"enough: {covered:.1f} times" if covered >= 1 else f"not enough: it covers {covered:.0%}"
        print(f"budget      {limit} is {word}")


def show_affordable(
    model: str | None, on: str, devices: int | None, precision: str | None, cost: Prices, limit: Budget, as_json: bool
) -> None:
    """Print what the budget buys for the model, or for the usual sizes."""
    from doran.plan.afford import STANDARD, afford, render_afford
    from doran.plan.models import find_model
    from doran.plan.profiles import find_hardware, shipped

    names = [on] if on else shipped()
    hardware = [find_hardware(name) for name in names]
    hardware = [h for h in hardware if on or (h.kind == "gpu" and h.slug in cost.rent)]
    setups = {h.slug: setup_of(on or h.slug, devices, precision, cost) for h in hardware}
    models = [(name, find_model(name)) for name in ([model] if model else STANDARD)]
    rows = afford(limit, models, hardware, setups)
    if not rows:
        raise UsageError(
            "the budget buys nothing here: no model fits", hint="take larger --on hardware or more --devices"
        )
    if as_json:
        print_json({"budget": str(limit), "prices": cost.where, "rows": [vars(row) for row in rows]})
    else:
        print(render_afford(limit, cost, rows), end="")


def show_recipe(path: Path, overrides: list[str], on: str, cost: Prices, limit: Budget | None, as_json: bool) -> None:
    """Print the plan of a recipe's stages, and what they cost on this machine."""
    from doran.plan.hardware import standard
    from doran.plan.profiles import HERE, find_hardware, settings_folder
    from doran.plan.recipe_file import recipe_plans
    from doran.plan.report import money_line
    from doran.plan.table import render

    measured = (settings_folder() / "hardware.yaml").exists()
    hardware = find_hardware(on or (HERE if measured else "cpu-2core"))
    plans = recipe_plans(path, overrides, hardware, standard(hardware))
    hours = sum(plan.total.seconds for plan in plans) / 3600
    usd, kwh = hours * cost.per_hour(hardware), cost.kwh(hardware, hours)
    if as_json:
        stages = [{"stage": p.name, "seconds": p.total.seconds, "flops": p.total.flops, "tokens": p.total.tokens,
                   "peak_memory_bytes": p.memory.peak} for p in plans]  # fmt: skip
        print_json({"hardware": hardware.name, "seconds": hours * 3600, "usd": usd, "krw": cost.krw(usd), "kwh": kwh,
                    "stages": stages})  # fmt: skip
        return
    print(render(plans, hardware) + money_line(usd, kwh, cost))
    if limit is not None:
        share = {"hours": hours, "kwh": kwh}.get(limit.unit, usd) / (limit.usd(cost) or limit.amount)
        print(f"budget      {limit}: {'enough' if share <= 1 else 'not enough'}, the run takes {share:.0%} of it")


def show_serving(
    model: str,
    on: str,
    devices: int | None,
    precision: str | None,
    cost: Prices,
    length: int,
    speed: float,
    as_json: bool,
) -> None:
    """Print what a server of this model can do."""
    from doran.plan.jobs import serving_instance
    from doran.plan.models import find_model
    from doran.plan.report import serving_facts, serving_text
    from doran.plan.serving import Serving

    setup, config = setup_of(on, devices, precision, cost), find_model(model)
    if devices:
        instance = Serving(
            config=config,
            hardware=setup.hardware,
            devices=devices,
            precision=setup.precision,
            efficiency=setup.efficiency,
        )
    else:
        instance = serving_instance(config, setup, 1024, length)
    facts = serving_facts(instance, cost, length, speed)
    if as_json:
        print_json({"model": model, **facts})
    else:
        print(serving_text(model, instance, cost, facts), end="")


def show_from_disk(
    model: str, on: str, stored: str | None, cache: str, hit_rate: float | None, length: int, as_json: bool
) -> None:
    """Print what one stream of a model with its experts on disk does."""
    from doran.cli.experts_cache import parse_size
    from doran.plan.from_disk import RELEASED, FromDisk, text
    from doran.plan.hardware import standard
    from doran.plan.models import find_model
    from doran.plan.profiles import find_hardware

    config, hardware = find_model(model), find_hardware(on or "this")
    method = (config.quantization_config or {}).get("quant_method")
    kind = stored or RELEASED.get(model.lower()) or ("fp8" if method == "fp8" else "bf16")
    planned = FromDisk(
        config=config, hardware=hardware, efficiency=standard(hardware), cache=parse_size(cache), stored=kind,
        hit_rate=hit_rate,
    )  # fmt: skip
    if as_json:
        print_json({"model": model, **planned.facts(length)})
    else:
        print(text(model, planned, length), end="")


def draw(model: str, setup: Setup, job: Job, length: int, batch: str | None, path: Path) -> None:
    """Write the timeline of one step of the job's layout."""
    from doran.plan.jobs import PRETRAIN_BATCH, find
    from doran.plan.models import find_model
    from doran.plan.timeline import write_timeline

    config = find_model(model)
    found = find(config, setup, job.tokens, length, round(amount(batch)) if batch else PRETRAIN_BATCH)
    write_timeline(path, found.layout, found.step, f"{model} on {setup.hardware.name}: {found.layout}")
