"""`doran eval`: ask a model a task's held-out questions and count, with confidence intervals. Trains nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.config import StrictModel, apply_overrides, build
from doran.base.errors import UsageError
from doran.cli.asking import LANGUAGES, STYLES, Language, Style, check_choice, opened_task, prompt_style
from doran.cli.loading import open_model
from doran.cli.options import (
    DataFile,
    Dtype,
    Json,
    ModelDir,
    Overrides,
    Seed,
    TaskName,
    Threads,
    print_json,
    use_threads,
)

if TYPE_CHECKING:
    from doran.evals.run import EvalResult


class Settings(StrictModel):
    """What KEY=VALUE may set: the task's own settings."""

    task: dict[str, Any] = {}


def main(
    model: ModelDir,
    task: TaskName,
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
    max_batch: Annotated[
        int, typer.Option("--max-batch", metavar="N", min=1, help="Completions decoded together.")
    ] = 128,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also write every question and verdict as JSON.")
    ] = None,
    as_json: Json = False,
    dtype: Dtype = "float32",
    threads: Threads = None,
) -> None:
    """Measure a model on a task.

    pass@1 is the share of correct completions, averaged over K per question; pass@K that one of K is right; cons@K
    that the majority is. Intervals are 95% and count questions, not completions. Settings of the task are given as
    task.KEY=VALUE, such as task.max_number=20, or task.instructions=true for models that were never told to think
    in tags. From a file of your own, one row in eight is held out; task.all_rows=true takes them all.

    Example: doran eval --model DIR --task gsm8k --data test.jsonl task.all_rows=true --n 200 --k 4 --json
    """
    from doran.engine.request import SamplingParams

    check_choice("--style", style, STYLES)
    check_choice("--language", language, LANGUAGES)
    settings = build(Settings, apply_overrides({}, overrides or []), where="settings")
    params = SamplingParams(max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    if out is not None and out.is_dir():
        raise UsageError(f"--out {out}: this is a folder", hint="give the name of a file, such as result.json")
    use_threads(threads)
    with opened_task(task, data, settings.task) as asked:
        items = asked.generate(split, n, seed, language)  # type: ignore[arg-type]  # generate checks both words
        opened = open_model(model, dtype)
        assert opened.tokenizer is not None
        name, wrap = prompt_style(opened.tokenizer, style)
        result = measure(opened, asked, items, k, params, wrap, max_batch)
    if out is not None:
        result.save(out)
    facts = {"model": str(model), "task": task, "split": split, "language": language, "style": name, "n": n, "k": k}
    if as_json:
        totals = {key: value for key, value in result.to_dict().items() if key in ("sampling", "metrics")}
        print_json({**facts, **totals})
    else:
        print("\n".join(table(facts, result)))


def measure(opened: Any, task: Any, items: list[Any], k: int, params: Any, style: Any, max_batch: int) -> EvalResult:
    """The evaluation, with its progress on stderr."""
    from doran.base.runlog import Progress
    from doran.evals.run import evaluate

    with Progress("eval", len(items) * k) as progress:
        return evaluate(
            opened.model, opened.tokenizer, task, items, k, params,
            prompt_style=style, max_batch=max_batch, on_finish=lambda done, of: progress.update(done),
        )  # fmt: skip


def table(facts: dict[str, Any], result: EvalResult) -> list[str]:
    """For people: one line a metric, one column a language; `value [low, high]`, 95% intervals over questions."""
    groups = result.summary()
    shown = list(groups) if len(groups) > 2 else ["all"]  # one language only: its column would say the same twice
    counts = f"{len(result.items)} {facts['split']} questions, {result.k} completions each"
    head = [f"{facts['model']} on {facts['task']}: {counts}", ""]
    lines = [f"{'':<18}" + "".join(f"{name:<26}" for name in shown)] if len(shown) > 1 else []
    for metric in groups["all"]:
        lines.append(f"{metric:<18}" + "".join(f"{_cell(groups[name][metric]):<26}" for name in shown))
    return [*head, *(line.rstrip() for line in lines)]


def _cell(interval: Any) -> str:
    if interval.value is None or interval.low is None:
        return "-"
    form = ".3f" if interval.value <= 1 and (interval.high or 0) <= 1 else ".1f"
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"
