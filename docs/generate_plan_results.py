"""Writes docs/results/plan.md: predictions beside published figures, and beside what bench/plan_check.py measured.

python docs/generate_plan_results.py            # write the page
python docs/generate_plan_results.py --check    # exit 3 where the page is not what the code says
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import fields
from pathlib import Path

from doran.plan.hardware import Efficiency
from doran.plan.published import WITHIN, Row, rows

PAGE = Path(__file__).parent / "results" / "plan.md"
MEASURED = Path(__file__).parent / "results" / "plan_check.json"

MODEL_WORDS = f"""\
`doran plan` has one efficiency model. Its parameters are below; they are the same for every row, and no row has a
constant of its own. Counts must be equal; times and rates whose inputs are published must be within {WITHIN:.0%}; the
rest is shown with its error and gates nothing. `overlap` and `realised` come from no kernel benchmark: they were set
once, with the training and SGLang rows in view, and the form of the model (what is summed, what overlaps) was settled
while looking at this table: it is a fit of few numbers to many figures, not a blind forecast."""
MISS_WORDS = """\
Why rows miss: DeepSeek's production figures are means over a day in which nodes were not always full, and nothing
published says how full; the prediction is a full machine. How context extension was laid out is not published either:
with pretraining's layout, 480 sequences leave each pipeline four micro-batches and much of the time idle. Expert
imbalance, which costs decoding more than training, is inside `realised` only."""
FORMULA_WORDS = """\
seconds of a matrix product = FLOPs / (peak x matmul) + bytes / (memory bandwidth x bandwidth) + op_seconds; layers add
up, traffic and bubbles are added, and all of it is divided by `realised`."""
SOURCE_WORDS = """\
Where each value comes from stands beside it in `src/doran/plan/hardware.py`; figures of devices, with sources, are in
`src/doran/plan/profiles/`."""


def main() -> None:
    """Write the page, or check it."""
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            print(f"error: {PAGE.name} is not what the code says\nhint: run {__file__}", file=sys.stderr)
            sys.exit(3)
        return
    PAGE.write_text(text, encoding="utf-8")


def page() -> str:
    """The whole page."""
    found = rows()
    missed = [row.what for row in found if not row.holds]
    said = f"{len(missed)} of {len(found)} rows miss: {'; '.join(missed)}." if missed else "Every row keeps its rule."
    head = ["what", "published", "predicted", "error", "rule", "holds", "source", "assumed"]
    parameters = [[f.name, f"{getattr(Efficiency(), f.name):g}"] for f in fields(Efficiency)]
    blocks = [
        ["# Predictions against what was published, and against here"],
        ["<!-- made by docs/generate_plan_results.py: change the code, then run it -->"],
        [MODEL_WORDS],
        [said],
        table(head, [line(row) for row in found]),
        [MISS_WORDS],
        ["## The efficiency model"],
        [FORMULA_WORDS],
        table(["parameter", "value"], parameters),
        [SOURCE_WORDS],
        *here(),
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def line(row: Row) -> list[str]:
    """One row as cells."""
    error = "0" if row.predicted == row.published else f"{row.error:+.1%}"
    cells = [row.what, amount(row.published, row.unit), amount(row.predicted, row.unit), error, row.rule]
    return [*cells, "" if row.rule == "shown" else "yes" if row.holds else "**no**", row.source, row.note]


def amount(value: float, unit: str) -> str:
    """A figure with its unit."""
    return f"{value:,.0f} {unit}".strip() if value >= 100 or value == round(value) else f"{value:.3g} {unit}".strip()


def here() -> list[list[str]]:
    """The section of measurements on one machine, when there are any."""
    if not MEASURED.exists():
        return []
    content = json.loads(MEASURED.read_text(encoding="utf-8"))
    body, errors = [], {"seconds": [], "tokens/s": [], "memory": []}
    for job in content["jobs"]:
        cells = [job["name"]]
        for key in errors:
            predicted, measured = job["predicted"][key], job["measured"][key]
            errors[key].append(abs(predicted / measured - 1))
            cells += [figure(measured, key), figure(predicted, key), f"{predicted / measured - 1:+.0%}"]
        body.append(cells)
    head = ["job"]
    for key in errors:
        head += [f"{key}, measured", "predicted", "error"]
    medians = ", ".join(f"{key} {statistics.median(values):.0%}" for key, values in errors.items())
    words = f"`python bench/plan_check.py` on {content['machine']}: twelve jobs, each step the median of several."
    return [
        ["## Against this machine"],
        [f"{words} Median absolute error: {medians}."],
        [content["note"]],
        table(head, body),
    ]


def figure(value: float, key: str) -> str:
    """A measured figure for a cell."""
    if key == "seconds":
        return f"{value * 1000:,.0f} ms"
    return f"{value / 2**20:,.0f} MiB" if key == "memory" else f"{value:,.0f}"


def table(head: list[str], body: list[list[str]]) -> list[str]:
    """Markdown lines."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]


if __name__ == "__main__":
    main()
