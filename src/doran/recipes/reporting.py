"""From a finished run's files to the dict that `evals/report.py` draws: nothing is measured here, everything is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from doran.base.device import machine
from doran.base.files import read_json
from doran.base.runlog import read_metrics
from doran.evals.metrics import Interval
from doran.evals.report import cell, write_report
from doran.evals.run import EvalResult
from doran.recipes.context import Context
from doran.recipes.stages import EVALUATED, FULLY, STAGES, result_file
from doran.text.parse import split_thought

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
            {
                "name": n,
                "seconds": r["seconds"],
                "tokens": r["tokens"],
                "parameters": r["parameters"],
                "steps": r["steps"],
            }
            for n, r in receipts.items()
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


def load_results(folder: Path) -> dict[str, dict[str, EvalResult]]:
    """label -> task -> result."""
    return {
        label: {f.stem: EvalResult.load(f) for f in sorted(result_file(folder, label, "x").parent.glob("*.json"))}
        for label in EVALUATED
    }


def headline(results: dict[str, dict[str, EvalResult]], receipts: dict[str, Any]) -> list[dict[str, str]]:
    """The figures a reader wants first."""
    show = lambda label: f"{100 * results[label]['countdown'].summary()['all']['pass@1'].value:.1f}%"  # noqa: E731
    minutes = sum(r["seconds"] for r in receipts.values()) / 60
    return [
        {"label": "Base", "value": show("base"), "note": "held-out Countdown, pass@1"},
        {"label": "R1-Zero", "value": show("R1-Zero"), "note": "GRPO on the base, no examples"},
        {"label": "R1", "value": show("R1"), "note": "after the four stages"},
        {"label": "Student", "value": show("student, distilled"), "note": "dense, distilled from R1"},
        {"label": "Time", "value": f"{minutes:.0f} min", "note": "all stages, this machine"},
    ]


def tables(results: dict[str, dict[str, EvalResult]]) -> list[dict[str, Any]]:
    """Countdown in full, all tasks by language, voting."""
    names = ("pass@1", "format", "thought_language", "answer_language", "mean_length", "truncated")
    full = []
    for label, by_task in results.items():
        s = by_task["countdown"].summary()
        gap = by_task["countdown"].language_gap("en", "ko")
        metric = lambda name: s["all"].get(name)  # noqa: E731
        full.append(
            [
                label,
                *(None if metric(n) is None else cell(metric(n), n != "mean_length") for n in names),
                cell(Interval(gap.value, gap.low, gap.high)),
            ]
        )
    per_task = [
        [label, TASKS[task], *(cell(by_task[task].summary()[lang]["pass@1"]) for lang in ("all", "en", "ko")), cell(by_task[task].summary()["all"]["mean_length"], False)]
        for label, by_task in results.items() if label in FULLY for task in TASKS if task in by_task
    ]  # fmt: skip
    votes = [
        [label, *(cell(by_task["countdown-16"].summary()["all"][n]) for n in ("pass@1", "cons@16", "pass@16"))]
        for label, by_task in results.items() if "countdown-16" in by_task
    ]  # fmt: skip
    out = [
        {"title": "Held-out Countdown", "columns": ["model", "pass@1", "well formed", "thought in question's language", "answer in it", "mean tokens", "truncated", "en − ko"], "rows": full,
         "note": "95% intervals over questions; a truncated completion counts as no answer."},
        {"title": "Every task", "columns": ["model", "task", "pass@1", "English", "Korean", "mean tokens"], "rows": per_task},
    ]  # fmt: skip
    if votes:
        out.append(
            {"title": "Sixteen samples a question", "columns": ["model", "pass@1", "cons@16", "pass@16"], "rows": votes}
        )
    return out


def curve(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """A stage's metrics by step."""
    return [
        (int(r["step"]), {k: float(v) for k, v in r.items() if isinstance(v, (int, float)) and k != "step"})
        for r in read_metrics(folder / "metrics.jsonl")
    ]


def samples(results: dict[str, dict[str, EvalResult]]) -> list[dict[str, Any]]:
    """One English and one Korean completion of each model."""
    out = []
    for label, by_task in results.items():
        for language in ("en", "ko"):
            item = next((i for i in by_task["countdown"].items if i.language == language and i.texts), None)
            if item is not None:
                thought, answer, _ = split_thought(item.texts[0])
                out.append({"stage": label, "prompt": item.prompt, "thought": thought or None, "answer": answer,
                            "reward": item.outcomes[0].reward, "language": language})  # fmt: skip
    return out


def summary(results: dict[str, dict[str, EvalResult]], receipts: dict[str, Any]) -> dict[str, Any]:
    """The numbers alone, for scripts."""
    totals = {
        label: {
            task: {group: {m: i.to_dict() for m, i in metrics.items()} for group, metrics in r.summary().items()}
            for task, r in by_task.items()
        }
        for label, by_task in results.items()
    }
    return {"results": totals, "receipts": receipts}
