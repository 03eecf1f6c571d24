"""The model card, `README.md` of a model folder: what it is, what it came from, what it cost, what it scores.

Hugging Face's form: YAML in front (licence, base model, languages, scores as `model-index`), Markdown behind. Only what
is known is written; what nobody said is said to be unknown. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from doran.evals.charts import number
from doran.evals.page import contamination_line
from doran.evals.report import duration
from doran.evals.run import EvalResult

MARK = "<!-- made by doran card -->"
USE = """\
## Use

```sh
doran chat --model DIR
doran generate --model DIR --prompt "3 + 4 = ?"
```

The folder is in Hugging Face's form: `transformers` loads it too.
"""
_NAMES = {"en": "English", "ko": "Korean"}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card says. `config`: config.json as read; `receipts`: one a training stage, in order."""

    name: str
    config: dict[str, Any]
    parameters: int | None = None
    license: str | None = None
    base_model: str | None = None
    data: Sequence[str] = ()
    receipts: Sequence[dict[str, Any]] = ()
    results: Sequence[EvalResult] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    def render(self) -> str:
        """The whole file."""
        parts = [self._front(), f"# {self.name}\n", self._what(), self._from(), self._scores(), self._cost(), USE]
        return "\n".join(part for part in parts if part) + f"\n{MARK}\n"

    def languages(self) -> list[str]:
        """Languages that were measured; English and Korean where none was."""
        return sorted({item.language for result in self.results for item in result.items}) or ["en", "ko"]

    def _front(self) -> str:
        front: dict[str, Any] = {"license": self.license or "unknown", "language": self.languages()}
        if self.base_model:
            front["base_model"] = self.base_model
        front |= {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["reasoning", "doran"]}
        if self.results:
            front["model-index"] = [{"name": self.name, "results": [_index(result) for result in self.results]}]
        return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---\n"

    def _what(self) -> str:
        size = f" with {number(self.parameters)} parameters" if self.parameters else ""
        kind = self.config.get("model_type", "unknown")
        return "\n\n".join([f"A `{kind}` model{size}, made with doran.", *self.notes]) + "\n"

    def _from(self) -> str:
        rows = [
            ("Licence", self.license or "not stated"),
            ("Base model", self.base_model or "none: trained from random weights, or not stated"),
            ("Training data", "; ".join(self.data) or "not stated"),
            ("Context", f"{self.config.get('max_position_embeddings', 'unknown')} tokens"),
            ("Vocabulary", f"{self.config.get('vocab_size', 'unknown')} tokens"),
        ]
        return "## Origin\n\n| | |\n|---|---|\n" + "".join(f"| {name} | {_cell(value)} |\n" for name, value in rows)

    def _scores(self) -> str:
        if not self.results:
            return "## Scores\n\nNot measured.\n"
        columns = "task | questions | k | pass@1 [95%] | cons@k | tokens a reply | cut off | recipe"
        head = f"| {columns} |\n" + "|---" * 8 + "|\n"
        rows = "".join(_score_rows(result) for result in self.results)
        lines = [contamination_line(found) + "." for r in self.results if (found := r.facts.get("contamination"))]
        seen = "\n" + "\n".join(lines) + "\n" if lines else ""
        rule = "\nIntervals count questions, not replies. A reply that was cut off counts as no answer.\n"
        return "## Scores\n\n" + head + rows + rule + seen

    def _cost(self) -> str:
        if not self.receipts:
            return ""
        total = sum(r.get("seconds") or 0 for r in self.receipts)
        rows = "".join(
            f"| {_cell(r.get('stage', '?'))} | {duration(r.get('seconds'))} | {_count(r.get('steps'))} "
            f"| {_count(r.get('tokens'))} |\n"
            for r in self.receipts
        )
        return (
            "## Cost of training\n\n| stage | time | steps | tokens |\n|---|---|---|---|\n" + rows
            + f"| together | {duration(total)} | | |\n"
        )  # fmt: skip


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _score_rows(result: EvalResult) -> str:
    """One row for all questions, and one a language where there are two."""
    groups = result.summary()
    shown = groups if len(groups) > 2 else {"all": groups["all"]}
    out = ""
    for group, seen in shown.items():
        name = result.task if group == "all" else f"{result.task}, {_NAMES.get(group, group)}"
        n = sum(group in ("all", item.language) for item in result.items)
        p = seen["pass@1"]
        cons = seen.get(f"cons@{result.k}")
        span = f"{_percent(p.value)} [{_percent(p.low)}, {_percent(p.high)}]"
        out += (
            f"| {name} | {n} | {result.k} | {span} | {_percent(cons.value) if cons else '–'} "
            f"| {number(seen['mean_length'].value or 0)} | {_percent(seen['truncated'].value)} "
            f"| {result.facts.get('recipe_hash', '–')} |\n"
        )
    return out


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def _index(result: EvalResult) -> dict[str, Any]:
    """An entry of the Hub's model-index."""
    seen = result.summary()["all"]["pass@1"]
    metric = {"type": "pass@1", "name": f"pass@1 of {result.k} replies", "value": round(100 * (seen.value or 0), 2)}
    dataset = {"name": result.task, "type": result.task}
    return {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": [metric]}

