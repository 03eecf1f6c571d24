"""The headline figures of several finished runs side by side, as a Markdown table: mean and range over seeds.

    python bench/seeds.py runs/tiny-r1 runs/tiny-r1-s1 runs/tiny-r1-s2

Reads each run's report.json; measures nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROWS = [  # label, model, task, group, metric, percent
    ("Base, pass@1", "base", "countdown", "all", "pass@1", True),
    ("R1-Zero, pass@1", "R1-Zero", "countdown", "all", "pass@1", True),
    ("R1-Zero, mean tokens (base first)", ("base", "R1-Zero"), "countdown", "all", "mean_length", False),
    ("Cold start, pass@1", "cold start", "countdown", "all", "pass@1", True),
    ("Reasoning RL, pass@1", "reasoning RL", "countdown", "all", "pass@1", True),
    ("Rejection SFT, pass@1", "rejection SFT", "countdown", "all", "pass@1", True),
    ("R1, pass@1", "R1", "countdown", "all", "pass@1", True),
    ("R1, English", "R1", "countdown", "en", "pass@1", True),
    ("R1, Korean", "R1", "countdown", "ko", "pass@1", True),
    ("R1, well formed", "R1", "countdown", "all", "format", True),
    ("R1, thought in the question's language", "R1", "countdown", "all", "thought_language", True),
    ("R1, cons@16", "R1", "countdown-16", "all", "cons@16", True),
    ("R1, arithmetic", "R1", "arithmetic", "all", "pass@1", True),
    ("R1, word problems", "R1", "word_problems", "all", "pass@1", True),
    ("R1, general", "R1", "general", "all", "pass@1", True),
    ("Student base, pass@1", "student base", "countdown", "all", "pass@1", True),
    ("Student distilled, pass@1", "student, distilled", "countdown", "all", "pass@1", True),
    ("Student with RL, pass@1", "student, RL", "countdown", "all", "pass@1", True),
]


def value(report: dict[str, Any], model: str, task: str, group: str, metric: str) -> float | None:
    """One figure of one run, None where the run has none."""
    found = report["results"].get(model, {}).get(task, {}).get(group, {}).get(metric)
    return None if found is None else found["value"]


def show(values: list[float | None], percent: bool) -> str:
    """Each run's figure, and their mean."""
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    form = (lambda v: f"{100 * v:.1f}%") if percent else (lambda v: f"{v:.0f}")
    return f"{form(sum(known) / len(known))} | {' / '.join('-' if v is None else form(v) for v in values)}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    folders = parser.parse_args().runs
    reports = [json.loads((folder / "report.json").read_text(encoding="utf-8")) for folder in folders]
    print(f"| | mean | {' / '.join(folder.name for folder in folders)} |\n|---|---|---|")
    for label, models, task, group, metric, percent in ROWS:
        for model in models if isinstance(models, tuple) else (models,):
            name = label if not isinstance(models, tuple) else f"{model}, mean tokens"
            print(f"| {name} | {show([value(r, model, task, group, metric) for r in reports], percent)} |")
    minutes = [sum(r["seconds"] for r in report["receipts"].values()) / 60 for report in reports]
    print(f"| minutes, all stages | {show([m for m in minutes], False)} |")
    memory = [max(r["peak_memory_bytes"] for r in report["receipts"].values()) / 2**30 for report in reports]
    print(f"| peak memory, GiB | {sum(memory) / len(memory):.1f} | {' / '.join(f'{m:.1f}' for m in memory)} |")


if __name__ == "__main__":
    main()
