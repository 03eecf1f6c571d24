"""What `doran eval` puts together: the recipe and its hash, who answers, the money. Options are in eval.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doran.base.files import sha256_file

if TYPE_CHECKING:
    from doran.cli.loading import Opened
    from doran.evals.run import EvalResult, PromptStyle

FILES = ("data", "test_data")
"""Settings of a task that name a file: the recipe holds the file's hash, not its place."""


def recipe_of(
    task: Any, facts: dict[str, Any], settings: dict[str, Any], data: Path | None, items: Sequence[Any], params: Any,
    stops: Sequence[str], side: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Everything the numbers depend on, as plain data. `side`: who answers and how, by compare.MODEL_SIDE."""
    from doran.evals.run import plain_params
    from doran.evals.samples import questions_digest

    given = {**settings, **({"data": str(data)} if data else {})}
    named = {key: _file(value) if key in FILES and value else value for key, value in given.items()}
    sampling = {key: value for key, value in plain_params(params).items() if key != "stop_token_ids"}
    asked = {key: facts[key] for key in ("task", "split", "language", "n", "k")}
    recipe = {**asked, "settings": named, "questions": questions_digest(items), "sampling": sampling,
              "stop": list(stops), "style": side["style"]}  # fmt: skip
    if "endpoint" in side:
        return {**recipe, "model": side["model"], "endpoint": side["endpoint"]}
    return {**recipe, "model": model_digest(side["model"]), "engine": _engine(side)}


def _file(path: Any) -> str:
    return f"sha256:{sha256_file(path)[:16]}" if Path(path).is_file() else str(path)


def _engine(side: dict[str, Any]) -> dict[str, Any]:
    """What the last bits depend on."""
    import torch

    import doran

    return {"doran": doran.__version__, "torch": str(torch.__version__), "dtype": side["dtype"],
            "max_batch": side["max_batch"], "threads": torch.get_num_threads()}  # fmt: skip


def model_digest(folder: Path) -> str:
    """A hash of config, tokenizer and weights."""
    from doran.evals.samples import digest

    patterns = ("config.json", "tokenizer*.json", "*.jinja", "*.safetensors")
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    return f"sha256:{digest([[file.name, sha256_file(file)] for file in files])}"


def sampled(
    task: Any, items: list[Any], k: int, params: Any, recipe: dict[str, Any], opened: Opened | None,
    wrap: PromptStyle | None, endpoint: str | None, served: str, parallel: int, max_batch: int, stops: list[str],
    out: Path | None,
) -> EvalResult:  # fmt: skip
    """The evaluation, with its progress on stderr and its replies kept beside `out`."""
    import itertools

    from doran.base.runlog import Progress
    from doran.evals.samples import EngineSampler, Sampler, evaluate_kept

    with Progress("eval", len(items) * k) as progress:
        done = itertools.count(1)

        def tick() -> None:
            progress.update(next(done))

        sampler: Sampler
        if endpoint is not None:
            from doran.evals.endpoint import EndpointSampler

            sampler = EndpointSampler(endpoint, served, params, stops=stops, parallel=parallel, on_finish=tick)
        else:
            assert opened is not None and wrap is not None
            sampler = EngineSampler(
                opened.model, opened.tokenizer, params, style=wrap, max_batch=max_batch, stops=stops, on_finish=tick
            )
        samples = out.with_name(out.stem + ".samples.jsonl") if out else None
        return evaluate_kept(sampler, task, items, k, params, recipe, samples=samples)


def money_of(result: EvalResult, usd_per_hour: float | None, usd_per_mtok: float | None, local: bool) -> EvalResult:
    """The result with its price: what was given, else this machine's electricity, else (a server) none."""
    from doran.evals.samples import priced
    from doran.plan.hardware import DEFAULT
    from doran.plan.prices import load_prices
    from doran.plan.profiles import find_hardware, settings_folder

    prices, cost = load_prices(), result.facts["cost"]
    hours, usd, how = cost["seconds"] / 3600, None, ""
    if usd_per_mtok is not None:
        usd, how = cost["tokens"] / 1e6 * usd_per_mtok, f"{usd_per_mtok:g} USD a million tokens"
    elif usd_per_hour is not None:
        usd, how = hours * usd_per_hour, f"{usd_per_hour:g} USD an hour"
    elif local:
        here = find_hardware("this") if (settings_folder() / "hardware.yaml").exists() else DEFAULT
        usd, how = prices.kwh(here, hours) * prices.usd_per_kwh, f"electricity at {here.watts:g} W"
    return priced(result, usd, prices.krw_per_usd, how)
