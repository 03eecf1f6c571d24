"""The tables of docs/results/tiny-r1.md, made from one finished run's report.json and metrics.jsonl files.

    python bench/results_tables.py runs/tiny-r1

Writes Markdown to stdout and measures nothing; figures over several seeds: seeds.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TASKS = ("arithmetic", "word_problems", "general")
RL_STAGES = ("03-zero", "05-rl", "07-rl-all", "10-student-rl")


def table(header: str, rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; `header` has the column names with | between them."""
    lines = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def interval(figure: dict[str, Any] | None, percent: bool = True) -> str:
    """A value with its interval, "-" where there is none."""
    if figure is None or figure.get("value") is None:
        return "-"
    form = (lambda v: f"{100 * v:.1f}") if percent else (lambda v: f"{v:.0f}")
    if figure.get("low") is None:
        return form(figure["value"])
    return f"{form(figure['value'])} [{form(figure['low'])}, {form(figure['high'])}]"


def countdown(results: dict[str, Any]) -> str:
    """Held-out Countdown, one row a model."""
    rows = []
    for model, tasks in results.items():
        groups = tasks["countdown"]
        every = groups["all"]
        by_language = [interval(groups[language]["pass@1"]) for language in ("en", "ko")]
        shown = [interval(every[name]) for name in ("format", "thought_language")]
        rows.append([model, interval(every["pass@1"]), *by_language, *shown,
                     interval(every["mean_length"], percent=False), interval(every["truncated"])])  # fmt: skip
    header = "model | pass@1 % | English | Korean | well formed | in the question's language | mean tokens | cut off"
    return table(header, rows)


def sixteen(results: dict[str, Any]) -> str:
    """pass@1, the vote of sixteen, and one right in sixteen."""
    figures = {model: tasks["countdown-16"]["all"] for model, tasks in results.items() if "countdown-16" in tasks}
    names = ("pass@1", "cons@16", "pass@16")
    rows = ([model, *(interval(figure[name]) for name in names)] for model, figure in figures.items())
    return table("model | pass@1 | cons@16 | pass@16", rows)


def other_tasks(results: dict[str, Any]) -> str:
    """pass@1 on the other tasks, both languages and each."""

    def cell(groups: dict[str, Any]) -> str:
        return " / ".join(f"{100 * groups[group]['pass@1']['value']:.1f}" for group in ("all", "en", "ko"))

    rows = ([model, *(cell(tasks[t]) if t in tasks else "-" for t in TASKS)]
            for model, tasks in results.items() if "arithmetic" in tasks)  # fmt: skip
    return table("model | arithmetic | word problems | general", rows)


def costs(receipts: dict[str, Any]) -> str:
    """What each stage took."""
    rows = [
        [name, f"{r['seconds']:.0f}", *(str(r[key] or "") for key in ("steps", "tokens", "parameters")),
         f"{r['peak_memory_bytes'] / 2**30:.2f}"]
        for name, r in receipts.items()
    ]  # fmt: skip
    total = sum(r["seconds"] for r in receipts.values())
    return table("stage | seconds | steps | tokens | parameters | peak memory GiB",
                 [*rows, ["all", f"{total:.0f} ({total / 60:.1f} min)", "", "", "", ""]])  # fmt: skip


def climb(metrics: Path, every: int) -> str:
    """An RL stage, means of `every` steps."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    shown = []
    for first in range(0, len(rows), every):
        part = rows[first : first + every]
        seen = [row["eval/pass@1"] for row in part if "eval/pass@1" in row]
        mean = {name: sum(row[name] for row in part) / len(part) for name in MEANS}
        look = f"{seen[-1]:.2f}" if seen else ""
        shown.append([f"{part[0]['step']}–{part[-1]['step']}", f"{mean[MEANS[0]]:.3f}", look,
                      f"{mean[MEANS[1]]:.0f}", *(f"{mean[name]:.4f}" for name in MEANS[2:])])  # fmt: skip
    header = "steps | accuracy in training | held-out pass@1 (T=1) | mean tokens | cut off | entropy | gap/mean"
    return table(header, shown)


MEANS = ("rewards/accuracy/mean", "completions/mean_length", "completions/clipped_ratio", "entropy", "gap/mean")


def main() -> None:
    """Print every table under its heading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--every", type=int, default=10, help="steps in a row of the RL tables")
    options = parser.parse_args()
    report = json.loads((options.run / "report.json").read_text(encoding="utf-8"))
    sections = {
        "Held-out Countdown": countdown(report["results"]),
        "Sixteen samples a question": sixteen(report["results"]),
        "Every task, pass@1 % (all / English / Korean)": other_tasks(report["results"]),
        "What each stage took": costs(report["receipts"]),
    }
    for stage in RL_STAGES:
        sections[f"{stage}, means of {options.every} steps"] = climb(
            options.run / "stages" / stage / "metrics.jsonl", options.every
        )
    print("\n\n".join(f"### {title}\n\n{body}" for title, body in sections.items()))


if __name__ == "__main__":
    main()
