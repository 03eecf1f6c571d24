"""`doran eval`: ask a model, or a server, a task's held-out questions and count, with intervals. Trains nothing.

`doran eval compare A.json B.json` tests two kept results against each other (cli/compare.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.config import StrictModel, apply_overrides, build
from doran.base.errors import UsageError
from doran.cli.asking import LANGUAGES, STYLES, Language, Style, check_choice, opened_task, prompt_style
from doran.cli.compare import compare
from doran.cli.evaluating import money_of, recipe_of, sampled
from doran.cli.loading import model_folder, open_model
from doran.cli.options import (
    DataFile,
    Dtype,
    Json,
    Overrides,
    Seed,
    TaskName,
    Threads,
    print_json,
    say,
    use_threads,
)

if TYPE_CHECKING:
    from doran.evals.run import EvalResult

SUBVERBS = {"compare": compare}


class Settings(StrictModel):
    """What KEY=VALUE may set: the task's own settings."""

    task: dict[str, Any] = {}


def main(
    task: TaskName,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="DIR", help="Model folder: config.json, *.safetensors, tokenizer.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help="Ask this OpenAI-compatible server instead.")
    ] = None,
    served_model: Annotated[
        str, typer.Option("--served-model", metavar="NAME", help="The model's name on that server.")
    ] = "doran",
    parallel: Annotated[
        int, typer.Option("--parallel", metavar="N", min=1, help="Questions asked of the server at once.")
    ] = 8,
    overrides: Overrides = None,
    data: DataFile = None,
    n: Annotated[int, typer.Option("--n", metavar="N", min=1, help="Questions.")] = 100,
    k: Annotated[int, typer.Option("--k", metavar="K", min=1, help="Completions of each question.")] = 4,
    split: Annotated[str, typer.Option("--split", metavar="SPLIT", help="test (held out) or train.")] = "test",
    language: Language = "mixed",
    style: Style = "auto",
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", help="0 takes the likeliest token; then use --k 1.")
    ] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p", metavar="P", help="Sample from the likeliest tokens only.")] = 1.0,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", help="A reply that is longer counts as no answer.")
    ] = 512,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="TEXT", help="An answer ends before this text; thoughts may hold it. Repeat."),
    ] = None,
    max_batch: Annotated[
        int, typer.Option("--max-batch", metavar="N", min=1, help="Completions decoded together.")
    ] = 128,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE",
            help="Also write every question and verdict as JSON, and each reply as it comes: a killed command goes on.",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write a page with plots.")] = None,
    seen: Annotated[
        list[Path] | None,
        typer.Option("--trained-on", metavar="FILE", help="Look for the questions in this training file. Repeat."),
    ] = None,
    usd_per_hour: Annotated[
        float | None,
        typer.Option("--usd-per-hour", metavar="USD", min=0, help="What an hour costs; else this machine's power."),
    ] = None,
    usd_per_mtok: Annotated[
        float | None,
        typer.Option("--usd-per-mtok", metavar="USD", min=0, help="What a million generated tokens cost instead."),
    ] = None,
    as_json: Json = False,
    dtype: Dtype = "float32",
    threads: Threads = None,
) -> None:  # fmt: skip
    """Measure a model, or a served one, on a task. `doran eval compare A.json B.json` tests two results kept by --out.

    pass@1 is the share of correct completions, averaged over K per question; pass@K that one of K is right; cons@K
    that the majority is. Intervals are 95% and count questions, not completions. Settings of the task are given as
    task.KEY=VALUE, such as task.max_number=20, or task.instructions=true for models that were never told to think
    in tags. From a file of your own, one row in eight is held out; task.all_rows=true takes them all.
    The recipe's hash stands for everything the numbers depend on: the same hash gives the same numbers.

    Example: doran eval --model DIR --task gsm8k --data test.jsonl task.all_rows=true --n 200 --k 4 --json
    """
    from doran.engine.request import SamplingParams

    check_choice("--style", style, STYLES)
    check_choice("--language", language, LANGUAGES)
    if (model is None) == (endpoint is None):
        raise UsageError("give one of --model DIR and --endpoint URL", hint="--endpoint asks a running server")
    settings = build(Settings, apply_overrides({}, overrides or []), where="settings")
    params = SamplingParams(max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    if out is not None and out.is_dir():
        raise UsageError(f"--out {out}: this is a folder", hint="give the name of a file, such as result.json")
    if any(not text for text in stop or []):
        raise UsageError("--stop: the text is empty", hint="leave it out")
    use_threads(threads)
    with opened_task(task, data, settings.task) as asked:
        items = asked.generate(split, n, seed, language)  # type: ignore[arg-type]  # generate checks both words
        facts: dict[str, Any] = {"model": str(model or served_model), "task": task, "split": split,
                                 "language": language, "style": "server's", "n": n, "k": k}  # fmt: skip
        if endpoint is not None:
            side: dict[str, Any] = {"style": "server's", "model": served_model, "endpoint": endpoint}
            opened = wrap = None
        else:
            assert model is not None
            opened = open_model(model, dtype)
            assert opened.tokenizer is not None
            facts["style"], wrap = prompt_style(opened.tokenizer, style)
            side = {"style": facts["style"], "model": model_folder(model), "dtype": dtype, "max_batch": max_batch}
        recipe = recipe_of(asked, facts, settings.task, data, items, params, stop or [], side)
        result = sampled(asked, items, k, params, recipe, opened, wrap, endpoint, served_model, parallel, max_batch,
                         stop or [], out)  # fmt: skip
    result = money_of(result, usd_per_hour, usd_per_mtok, local=endpoint is None)
    result = searched(result, seen or [])
    if out is not None:
        result.save(out)
    if html is not None:
        write_page(html, facts, result)
    if as_json:
        kept = ("sampling", "metrics", "facts")
        totals = {key: value for key, value in result.to_dict().items() if key in kept}
        more = totals.pop("facts", {})
        print_json({**facts, **totals, **{f"avg@{k}": totals["metrics"]["all"]["pass@1"]}, **more})
    else:
        print("\n".join(table(facts, result)))


def searched(result: EvalResult, files: list[Path]) -> EvalResult:
    """The result with what the contamination check found in the training files."""
    if not files:
        return result
    from dataclasses import replace

    from doran.evals.contamination import check

    return replace(result, facts={**result.facts, "contamination": check(result, files)})


def write_page(path: Path, facts: dict[str, Any], result: EvalResult) -> None:
    """The page with plots."""
    from doran.evals.page import page
    from doran.evals.report import write_report

    command = f"doran eval --task {facts['task']} --n {facts['n']} --k {facts['k']}"
    write_report(path, page({facts["model"]: result}, f"{facts['model']} on {facts['task']}", command))
    say(f"page: {path}")


def table(facts: dict[str, Any], result: EvalResult) -> list[str]:
    """For people: one line a metric, one column a language; `value [low, high]`, 95% intervals over questions."""
    from doran.evals.page import contamination_line, cost_lines

    groups = result.summary()
    shown = list(groups) if len(groups) > 2 else ["all"]  # one language only: its column would say the same twice
    counts = f"{len(result.items)} {facts['split']} questions, {result.k} completions each"
    head = [f"{facts['model']} on {facts['task']}: {counts}", ""]
    lines = [f"{'':<18}" + "".join(f"{name:<26}" for name in shown)] if len(shown) > 1 else []
    for metric in groups["all"]:
        name = f"pass@1 = avg@{result.k}" if metric == "pass@1" and result.k > 1 else metric
        lines.append(f"{name:<18}" + "".join(f"{_cell(groups[group][metric]):<26}" for group in shown))
    if len(shown) > 2:
        gap = result.language_gap("en", "ko")
        if gap.questions:
            lines.append(f"{'en - ko, pass@1':<18}{_cell(gap.interval)}")
    lines += cost_lines(result)
    if found := result.facts.get("contamination"):
        lines.append(f"{'seen in training':<18}{contamination_line(found)}")
    if "recipe_hash" in result.facts:
        lines.append(f"{'recipe':<18}{result.facts['recipe_hash']}")
    return [*head, *(line.rstrip() for line in lines)]


def _cell(interval: Any) -> str:
    if interval.value is None or interval.low is None:
        return "-"
    form = ".3f" if interval.value <= 1 and (interval.high or 0) <= 1 else ".1f"
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"
