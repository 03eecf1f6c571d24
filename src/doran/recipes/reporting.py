"""From a finished run's files to the dict that `evals/report.py` draws. Nothing is measured here, all is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from doran.base.device import machine
from doran.base.files import read_json
from doran.base.runlog import read_metrics
from doran.evals.report import cell, write_report
from doran.evals.run import EvalResult
from doran.recipes.context import Context
from doran.recipes.stages import EVALUATED, FULLY, STAGES, result_file
from doran.text.parse import split_thought

Results = dict[str, dict[str, EvalResult]]
"""label -> task -> result"""

TASKS = {"countdown": "Countdown", "arithmetic": "Arithmetic", "word_problems": "Word problems", "general": "General"}


def write_run_report(ctx: Context, path: Path) -> None:
    """runs/NAME/report.html, and the same numbers as report.json beside it."""
    results = load_results(ctx.folders["evaluate"])
    receipts = {s.name: read_json(ctx.folders[s.name] / "receipt.json") for s in STAGES}
    data = {
        "title": f"doran: {ctx.recipe.name}",
        "subtitle": ctx.recipe.description,
        "headline": headline(results, receipts),
        "tables": tables(results),
        "curves": {
            name: curve(ctx.folders[name]) for name in receipts if (ctx.folders[name] / "metrics.jsonl").exists()
        },
        "comparisons": [
            {
                "title": "RL on the student base against the teacher's R1-Zero",
                "metric": "eval/pass@1",
                "stages": {"R1-Zero": "zero", "student, RL": "student_rl"},
            }
        ],
        "stages": [
            {"name": name, **{fact: receipt[fact] for fact in ("seconds", "tokens", "parameters", "steps")}}
            for name, receipt in receipts.items()
        ],
        "samples": samples(results),
        "recipe": yaml.safe_dump(ctx.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        "command": f"doran run recipes/{ctx.recipe.name}.yaml seed={ctx.recipe.seed}",
        "machine": {k: v for k, v in machine().items() if isinstance(v, (str, int, float))},
    }
    write_report(path, data)
    path.with_suffix(".json").write_text(
        json.dumps(summary(results, receipts), ensure_ascii=False, indent=1), encoding="utf-8"
    )


def load_results(folder: Path) -> Results:
    """Everything the evaluation stage left."""
    return {
        label: {f.stem: EvalResult.load(f) for f in sorted(result_file(folder, label, "x").parent.glob("*.json"))}
        for label in EVALUATED
    }


def headline(results: Results, receipts: dict[str, Any]) -> list[dict[str, str]]:
    """The figures a reader wants first."""

    def show(label: str) -> str:
        value = results[label]["countdown"].summary()["all"]["pass@1"].value
        return "-" if value is None else f"{100 * value:.1f}%"

    minutes = sum(r["seconds"] for r in receipts.values()) / 60
    return [
        {"label": "Base", "value": show("base"), "note": "held-out Countdown, pass@1"},
        {"label": "R1-Zero", "value": show("R1-Zero"), "note": "GRPO on the base, no examples"},
        {"label": "R1", "value": show("R1"), "note": "after the four stages"},
        {"label": "Student", "value": show("student, distilled"), "note": "dense, distilled from R1"},
        {"label": "Time", "value": f"{minutes:.0f} min", "note": "all stages, this machine"},
    ]


COUNTDOWN = {  # metric -> column
    "pass@1": "pass@1",
    "format": "well formed",
    "thought_language": "thought in question's language",
    "answer_language": "answer in it",
    "mean_length": "mean tokens",
    "truncated": "truncated",
}
VOTES = ("pass@1", "cons@16", "pass@16")


def tables(results: Results) -> list[dict[str, Any]]:
    """Countdown in full, all tasks by language, voting."""
    out = [
        {
            "title": "Held-out Countdown",
            "columns": ["model", *COUNTDOWN.values(), "en − ko"],
            "rows": [countdown_row(label, by_task["countdown"]) for label, by_task in results.items()],
            "note": "95% intervals over questions; a truncated completion counts as no answer.",
        },
        {
            "title": "Every task",
            "columns": ["model", "task", "pass@1", "English", "Korean", "mean tokens"],
            "rows": [
                task_row(label, task, results[label][task])
                for label in results
                for task in TASKS
                if label in FULLY and task in results[label]
            ],
        },
    ]
    voting = {label: by_task["countdown-16"] for label, by_task in results.items() if "countdown-16" in by_task}
    if voting:
        rows = [vote_row(label, result) for label, result in voting.items()]
        out.append({"title": "Sixteen samples a question", "columns": ["model", *VOTES], "rows": rows})
    return out


def countdown_row(label: str, result: EvalResult) -> list[Any]:
    """A model's metrics, None where there is nothing to measure, and English minus Korean on the same questions."""
    seen = result.summary()["all"]
    cells = [cell(seen[name], name != "mean_length") if name in seen else None for name in COUNTDOWN]
    return [label, *cells, cell(result.language_gap("en", "ko").interval)]


def task_row(label: str, task: str, result: EvalResult) -> list[Any]:
    """pass@1 on all questions and by language."""
    seen = result.summary()
    shares = [cell(seen[group]["pass@1"]) for group in ("all", "en", "ko")]
    return [label, TASKS[task], *shares, cell(seen["all"]["mean_length"], percent=False)]


def vote_row(label: str, result: EvalResult) -> list[Any]:
    """What sixteen samples a question give: their mean, their vote, the best of them."""
    seen = result.summary()["all"]
    return [label, *(cell(seen[name]) for name in VOTES)]


def curve(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """A stage's metrics by step."""
    return [
        (int(r["step"]), {k: float(v) for k, v in r.items() if isinstance(v, (int, float)) and k != "step"})
        for r in read_metrics(folder / "metrics.jsonl")
    ]


def samples(results: Results) -> list[dict[str, Any]]:
    """One English and one Korean completion of each model."""
    out: list[dict[str, Any]] = []
    for label, by_task in results.items():
        for language in ("en", "ko"):
            item = next((i for i in by_task["countdown"].items if i.language == language and i.texts), None)
            if item is not None:
                thought, answer, _ = split_thought(item.texts[0])
                out.append({"stage": label, "prompt": item.prompt, "thought": thought or None, "answer": answer,
                            "reward": item.outcomes[0].reward, "language": language})  # fmt: skip
    return out


def summary(results: Results, receipts: dict[str, Any]) -> dict[str, Any]:
    """The numbers alone, for scripts."""
    totals = {
        label: {
            task: {group: {m: i.to_dict() for m, i in metrics.items()} for group, metrics in r.summary().items()}
            for task, r in by_task.items()
        }
        for label, by_task in results.items()
    }
    return {"results": totals, "receipts": receipts}
