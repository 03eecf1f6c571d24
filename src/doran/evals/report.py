"""`report.html`: one page, self-contained, from one plain dict. No script, no external resource, no measuring.

The dict (every key but `title` may be missing; unknown keys are refused):
    title, subtitle    text
    headline           [{"label", "value", "note"}]                     a few large figures
    tables             [{"title", "columns": [text], "rows": [[text, number, None or cell(...)]], "note"}]
    curves             {stage: [(step, {metric: value}), ...]}          metrics by the names in CHARTS
    figures            [{"title", "x", "y", "percent", "series": {name: [(x, y)]}}]    other lines, above the curves
    comparisons        [{"title", "metric", "stages": {label: stage}}]  one metric of several stages in one chart
    stages             [{"name", "seconds", "tokens", "parameters", "steps"}]
    samples            [{"stage", "prompt", "thought", "answer", "reward", "language"}]    thought None: there is none
    recipe, command    text
    machine            {fact: value}
    notes              [text]

Everything that comes from the dict is escaped: model output is not trusted. A content security policy forbids scripts
and loading as well, should that ever fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from html import escape
from pathlib import Path
from typing import Any

from doran.base.errors import ConfigError, suggest
from doran.base.files import write_atomic
from doran.evals.bilingual import CSS as SWITCH_CSS
from doran.evals.bilingual import SWITCH, bilingual
from doran.evals.charts import Axes, Series, interval_mark, line_chart, number, time_bar
from doran.evals.metrics import Interval
from doran.evals.run import EvalResult
from doran.evals.style import CSS

Data = Mapping[str, Any]

KEYS = ("title", "subtitle", "headline", "tables", "figures", "curves", "comparisons", "stages", "samples", "recipe",
        "command", "machine", "notes")  # fmt: skip


@dataclass(frozen=True)
class ChartSpec:
    """Which metrics of a stage share a chart: names, or patterns with *."""

    title: str
    metrics: tuple[str, ...]
    axes: Axes


CHARTS = (
    ChartSpec("Loss", ("loss", "val_loss", "loss/*"), Axes(y="nats per token", smooth=True)),
    ChartSpec("Reward", ("reward", "reward/*", "rewards/*"), Axes(y="mean reward", low=0, high=1, smooth=True)),
    ChartSpec("Held-out pass@1", ("pass@1*", "eval/pass@1*"), Axes(y="share correct", percent=True, low=0, high=1)),
    ChartSpec("Mean response length", ("completions/mean_length", "mean_length"), Axes(y="tokens", low=0, smooth=True)),
    ChartSpec("Entropy", ("entropy",), Axes(y="nats per token", low=0, smooth=True)),
)


def write_report(path: str | Path, data: Data) -> None:
    """Write the page, all of it or nothing. ConfigError: an unknown key."""
    write_atomic(path, render(data))


def render(data: Data) -> str:
    """The whole HTML page."""
    for key in data:
        if key not in KEYS:
            raise ConfigError(f"report: unknown key {key!r}", hint=suggest(key, KEYS))
    sections = [(anchor, title, body) for anchor, title, make in SECTIONS if (body := make(data))]
    nav = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections)
    main = "".join(f'<section><h2 id="{anchor}">{title}</h2>{body}</section>' for anchor, title, body in sections)
    title, subtitle = escape(str(data.get("title", "doran run"))), data.get("subtitle")
    return bilingual(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{CSS}{SWITCH_CSS}</style></head><body>{SWITCH}<header><h1>{title}</h1>"
        + (f'<p class="soft">{escape(str(subtitle))}</p>' if subtitle else "")
        + f'{_headline(data)}<nav aria-label="Sections">{nav}</nav></header><main>{main}</main>'
        "<footer>Made by doran. This file is complete: it loads nothing and runs nothing.</footer></body></html>\n"
    )


# ---- cells and tables ------------------------------------------------------------------------------------------


def cell(interval: Interval, percent: bool = True) -> dict[str, Any]:
    """A table cell from a measured interval; `percent=False` for lengths and other quantities."""
    return interval.to_dict() | {"percent": percent}


def eval_table(title: str, results: Mapping[str, EvalResult], group: str = "all", note: str = "") -> dict[str, Any]:
    """One row per model, one column per metric that any of them has; `group` is "all" or a language."""
    summaries = {label: result.summary().get(group, {}) for label, result in results.items()}
    names = list(dict.fromkeys(name for summary in summaries.values() for name in summary))
    rows = [
        [label, *(cell(s[name], name not in ("mean_length", "reward")) if name in s else None for name in names)]
        for label, s in summaries.items()
    ]
    return {"title": title, "columns": ["model", *(COLUMN_NAMES.get(n, n) for n in names)], "rows": rows, "note": note}


COLUMN_NAMES = {
    "mean_length": "tokens",
    "format": "well-formed",
    "thought_language": "thought in language",
    "answer_language": "answer in language",
    "leak": "Hanja or Kana",
}


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return _interval_cell(value)
    if value is None:
        return '<td class="soft">–</td>'
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"<td>{f'{value:,}' if isinstance(value, int) else number(value)}</td>"
    return f'<td class="text">{escape(str(value))}</td>'


def _interval_cell(raw: Mapping[str, Any]) -> str:
    if "shown" in raw:  # a quantity already written out: aligned as the numbers are
        return f"<td>{escape(str(raw['shown']))}</td>"
    value, low, high = raw.get("value"), raw.get("low"), raw.get("high")
    if value is None:
        return '<td class="soft">–</td>'
    percent = bool(raw.get("percent", True))
    if low is None or high is None:
        return f"<td>{number(value, percent)}</td>"
    span = f"{_fixed(low, percent)} – {_fixed(high, percent)}"
    mark = interval_mark(value, low, high) if percent and low >= 0 else ""
    return f"<td>{_fixed(value, percent)}{'%' if percent else ''}{mark}<small>{span}</small></td>"


def _fixed(value: float, percent: bool) -> str:
    """One decimal for shares, in percent, so that a column lines up."""
    return f"{100 * value:.1f}" if percent else number(value)


def _table(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A table that scrolls sideways on a narrow screen. The first cell of a row is its header."""
    texts = [any(isinstance(row[i], str) for row in rows if i < len(row)) for i in range(len(columns))]
    head = "".join(
        f'<th scope="col"{" class=text" if i and text else ""}>{escape(str(name))}</th>'
        for i, (name, text) in enumerate(zip(columns, texts, strict=True))
    )
    body = "".join(
        "<tr>" + "".join(_cell(value) if i else _row_head(value) for i, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _row_head(value: Any) -> str:
    return f'<th scope="row">{escape(str(value))}</th>'


# ---- sections --------------------------------------------------------------------------------------------------


def _headline(data: Data) -> str:
    cards = "".join(
        f'<li><span class="said">{escape(str(c["label"]))}</span><b>{escape(str(c["value"]))}</b>'
        f'<span class="said">{escape(str(c.get("note", "")))}</span></li>'
        for c in data.get("headline", ())
    )
    return f'<ul class="cards">{cards}</ul>' if cards else ""


def _results(data: Data) -> str:
    return "".join(
        f"<h3>{escape(str(table['title']))}</h3>{_table(table['columns'], table['rows'])}"
        + (f'<p class="note">{escape(str(table["note"]))}</p>' if table.get("note") else "")
        for table in data.get("tables", ())
    )


def _figures(data: Data) -> str:
    charts = "".join(
        line_chart(
            str(f["title"]),
            [Series(str(name), points) for name, points in f["series"].items()],
            Axes(x=f.get("x", "x"), y=f.get("y", ""), percent=bool(f.get("percent")), low=0),
        )
        for f in data.get("figures", ())
    )
    return f'<div class="charts">{charts}</div>' if charts else ""


Curve = Sequence[tuple[float, Mapping[str, float]]]


def _points(curve: Curve, metric: str) -> list[tuple[float, float]]:
    """The (step, value) points of one metric; None and text are gaps."""
    raw = [(step, values[metric]) for step, values in curve if metric in values]
    return [(float(x), float(y) if isinstance(y, (int, float)) else math.nan) for x, y in raw]


def _curves(data: Data) -> str:
    stages = "".join(_stage_curves(str(stage), curve) for stage, curve in data.get("curves", {}).items())
    return _comparisons(data) + stages


def _stage_curves(stage: str, curve: Curve) -> str:
    """The known charts of one stage; whatever else was logged is folded below."""
    names = list(dict.fromkeys(name for _, values in curve for name in values))
    shown, rest = [], list(names)
    for spec in CHARTS:
        mine = [n for pattern in spec.metrics for n in names if fnmatchcase(n, pattern) and n in rest]
        rest = [n for n in rest if n not in mine]
        if mine:
            shown.append(line_chart(spec.title, [Series(n, _points(curve, n)) for n in mine], spec.axes))
    more = "".join(line_chart(n, [Series(n, _points(curve, n))], Axes(smooth=True)) for n in rest if n != "step")
    folded = f'<details><summary>More curves</summary><div class="charts">{more}</div></details>' if more else ""
    charts = f'<div class="charts">{"".join(shown)}</div>' if shown else ""
    return f"<h3>{escape(stage)}</h3>{charts}{folded}" if shown or more else ""


def _comparisons(data: Data) -> str:
    charts = "".join(_comparison(c, data.get("curves", {})) for c in data.get("comparisons", ()))
    return f'<div class="charts">{charts}</div>' if charts else ""


def _comparison(raw: Mapping[str, Any], curves: Mapping[str, Curve]) -> str:
    metric = str(raw["metric"])
    axes = next((s.axes for s in CHARTS if any(fnmatchcase(metric, p) for p in s.metrics)), Axes(smooth=True))
    series = [Series(str(label), _points(curves.get(stage, ()), metric)) for label, stage in raw["stages"].items()]
    return line_chart(str(raw["title"]), series, axes)


def _stages(data: Data) -> str:
    stages = data.get("stages", ())
    if not stages:
        return ""
    bar = time_bar([(str(s["name"]), float(s.get("seconds") or 0)) for s in stages])
    total = sum(float(s.get("seconds") or 0) for s in stages)
    rows = [*map(_stage_row, stages), ["together", {"shown": duration(total)}, None, None, None]]
    table = _table(["stage", "time", "steps", "tokens", "parameters"], rows)
    for i, s in enumerate(stages):  # the bar's colour beside each name
        name = escape(str(s["name"]))
        key = f'<th scope="row"><span class="key s{i % 6}"></span>{name}</th>'
        table = table.replace(f'<th scope="row">{name}</th>', key, 1)
    return bar + table


def _stage_row(stage: Mapping[str, Any]) -> list[Any]:
    time = {"shown": duration(stage.get("seconds"))}
    return [stage["name"], time, stage.get("steps"), _count(stage.get("tokens")), _count(stage.get("parameters"))]


def _count(value: Any) -> Any:
    return {"shown": number(float(value))} if isinstance(value, (int, float)) else value


def duration(seconds: Any) -> str:
    """2 h 05 min, 3 min 20 s, 4.2 s."""
    if not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _samples(data: Data) -> str:
    by_stage: dict[str, list[Mapping[str, Any]]] = {}
    for sample in data.get("samples", ()):
        by_stage.setdefault(str(sample.get("stage", "model")), []).append(sample)
    return "".join(
        f'<h3>{escape(stage)}</h3><div class="samples">{"".join(map(_sample, samples))}</div>'
        for stage, samples in by_stage.items()
    )


def _sample(sample: Mapping[str, Any]) -> str:
    language = str(sample.get("language", ""))
    lang = f' lang="{language}"' if language in ("ko", "en") else ""
    thought, reward = sample.get("thought"), sample.get("reward")
    badge = ""
    if isinstance(reward, (int, float)):
        tone = "good" if reward >= 0.5 else "bad"
        badge = f'<span class="who">reward <span class="reward {tone}">{number(reward)}</span></span>'
    words = len(str(thought).split()) if thought else 0
    folded = (
        f"<details><summary>Thought, {words:,} word{'s' if words != 1 else ''}</summary>"
        f'<div class="thought">{escape(str(thought).strip())}</div></details>'
        if thought
        else ""
    )
    prompt, answer = escape(str(sample.get("prompt", "")).strip()), escape(str(sample.get("answer") or "").strip())
    return (
        f'<article class="sample"{lang}>{badge}<p class="prompt">{prompt}</p>{folded}'
        f"<p>{answer or '<span class=soft>no answer</span>'}</p></article>"
    )


def _recipe(data: Data) -> str:
    command, recipe = data.get("command"), data.get("recipe")
    run = f"<pre><code>{escape(str(command))}</code></pre>" if command else ""
    folded = f"<details><summary>The resolved recipe</summary><pre><code>{escape(str(recipe))}</code></pre></details>"
    return run + (folded if recipe else "")


def _machine(data: Data) -> str:
    facts = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(_fact(str(name), value))}</dd>"
        for name, value in data.get("machine", {}).items()
    )
    return f"<dl>{facts}</dl>" if facts else ""


def _fact(name: str, value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if "memory" in name and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    return str(value)


def _notes(data: Data) -> str:
    return "".join(f"<p>{escape(str(note))}</p>" for note in data.get("notes", ()))


SECTIONS: tuple[tuple[str, str, Callable[[Data], str]], ...] = (
    ("results", "Results", _results),
    ("figures", "Plots", _figures),
    ("curves", "Curves", _curves),
    ("samples", "Samples", _samples),
    ("stages", "Stages", _stages),
    ("recipe", "Recipe", _recipe),
    ("machine", "Machine", _machine),
    ("notes", "Notes", _notes),
)
