"""What a localise run found: before against after, as report.html, report.json, lines and the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from doran.base.device import machine
from doran.base.files import read_json, write_atomic
from doran.evals.card import Card
from doran.evals.compare import compare
from doran.evals.page import samples
from doran.evals.report import cell, write_report
from doran.evals.run import EvalResult
from doran.recipes.localise_measure import ROWS, lines
from doran.recipes.reporting import curve

if TYPE_CHECKING:
    from doran.recipes.localise import Localising

MIXING = ("thought_language", "answer_language", "leak")


def write_localise_report(ctx: Localising, path: Path) -> None:
    """The page, and the same numbers as report.json beside it."""
    from doran.recipes.localise import STAGES

    found = summary(ctx)
    receipts = [read_json(ctx.folders[stage.name] / "receipt.json") for stage in STAGES]
    trained = ("pretrain", "sft", "rl")
    write_report(path, {
        "title": f"doran localise: {ctx.recipe.name}",
        "subtitle": ctx.recipe.description,
        "headline": headline(found),
        "tables": [figures_table(found), score_table(ctx)],
        "curves": {name: curve(ctx.folders[name]) for name in trained},
        "stages": [{"name": r["stage"], **{k: r[k] for k in ("seconds", "tokens", "parameters", "steps")}}
                   for r in receipts],
        "samples": samples({f"{when}, {task}": result for when in ("before", "after")
                            for task, result in results(ctx, when).items()}, most=1),
        "recipe": yaml.safe_dump(ctx.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        "machine": {k: v for k, v in machine().items() if isinstance(v, (str, int, float))},
    })  # fmt: skip
    write_atomic(path.with_suffix(".json"), json.dumps(found | {"receipts": receipts}, ensure_ascii=False, indent=1))


def results(ctx: Localising, when: str) -> dict[str, EvalResult]:
    """task -> result."""
    from doran.recipes.localise import results_of

    return results_of(ctx, when)


def summary(ctx: Localising) -> dict[str, Any]:
    """Everything that was found, as plain data."""
    from doran.recipes.localise import figures_of

    scores = {}
    for task in ctx.recipe.evaluate.tasks:
        old, new = results(ctx, "before")[task], results(ctx, "after")[task]
        groups = {when: {g: {m: i.to_dict() for m, i in seen.items()} for g, seen in result.summary().items()}
                  for when, result in (("before", old), ("after", new))}  # fmt: skip
        scores[task] = groups | {"compared": compare(old, new).to_dict()}
    return {"figures": {stage: figures_of(ctx, stage) for stage in ("before", "extend", "after")}, "scores": scores}


def headline(found: dict[str, Any]) -> list[dict[str, str]]:
    """Tokens a Korean sentence, bits a byte, first task's scores in Korean."""
    old, new = found["figures"]["before"], found["figures"]["after"]
    saved = 1 - new["ko"]["tokens_per_sentence"] / old["ko"]["tokens_per_sentence"]
    kept = "the same ids as before" if found["figures"]["extend"]["english_unchanged"] else "ids changed"
    task, scores = next(iter(found["scores"].items()))
    cards = [
        ("Korean", f"−{100 * saved:.0f}%", "tokens for the same sentences"),
        ("English", f"{new['en']['tokens_per_sentence']:.1f}", f"tokens a sentence, {kept}"),
        ("Bits a byte", f"{new['ko']['bits_per_byte']:.2f}", f"Korean, was {old['ko']['bits_per_byte']:.2f}"),
    ]
    if "ko" in scores["after"]:
        before, after = (scores[when]["ko"]["pass@1"]["value"] for when in ("before", "after"))
        cards.append((f"{task}, Korean", f"{100 * after:.1f}%", f"pass@1, was {100 * before:.1f}%"))
    return [{"label": label, "value": value, "note": note} for label, value, note in cards]


def figures_table(found: dict[str, Any]) -> dict[str, Any]:
    """Tokens, bytes, bits: as it came, extended, trained."""
    rows = []
    for language, name in (("ko", "Korean"), ("en", "English")):
        for label, key in ROWS:
            values = [figures[language].get(key) for figures in found["figures"].values()]
            if any(value is not None for value in values):
                shown = [None if value is None else {"shown": f"{value:.3f}"} for value in values]
                rows.append([f"{name}: {label}", *shown])
    note = "Held-out text. Extending alone changes no English token; training then learns to use the new ones."
    return {"title": "The language", "columns": ["", "as it came", "extended", "trained"], "rows": rows, "note": note}


def score_table(ctx: Localising) -> dict[str, Any]:
    """pass@1 in both languages and the mixing of languages, before and after, with the paired test."""
    rows: list[list[Any]] = []
    for task in ctx.recipe.evaluate.tasks:
        both = {when: results(ctx, when)[task] for when in ("before", "after")}
        p = compare(both["before"], both["after"]).p_value
        for when, result in both.items():
            seen = result.summary()
            shares = [cell(seen[group]["pass@1"]) if group in seen else None for group in ("en", "ko")]
            mixing = [cell(seen.get("ko", seen["all"])[name]) for name in MIXING]
            rows.append([f"{task}, {when}", *shares, *mixing, {"shown": f"{p:.2g}" if when == "after" else ""}])
    columns = ["task", "pass@1 en", "pass@1 ko", "Korean thought", "Korean answer", "Hanja or Kana", "p (paired)"]
    return {"title": "Scores", "columns": columns, "rows": rows}


def report_lines(report: Path) -> list[str]:
    """For the terminal, from report.json."""
    found = read_json(report)
    columns = {"as it came": "before", "extended": "extend", "trained": "after"}
    out = lines({title: found["figures"][stage] for title, stage in columns.items()})
    for task, scores in found["scores"].items():
        out.append("")
        for group in (g for g in ("en", "ko") if g in scores["after"]):
            old, new = (scores[when][group]["pass@1"]["value"] for when in ("before", "after"))
            out.append(f"{task}, {group}: pass@1 {old:.3f} -> {new:.3f}")
        out.append(f"{task}: paired p {scores['compared']['p_value']:.2g}")
    return out


def card(ctx: Localising) -> str:
    """README.md of the exported folder."""
    texts = ctx.recipe.texts
    data = [f"{name}: {', '.join(Path(f).name for f in files) or 'generated by doran'}"
            for name, files in (("Korean", texts.korean), ("English", texts.english))]  # fmt: skip
    receipts = [read_json(ctx.folders[name] / "receipt.json") for name in ("before", "extend", "pretrain", "sft", "rl",
                                                                            "after")]  # fmt: skip
    figures = summary(ctx)["figures"]
    old, new = figures["before"]["ko"], figures["after"]["ko"]
    note = (
        f"Adapted to Korean: {figures['extend']['new_tokens']} new tokens, {new['tokens_per_sentence']:.1f} tokens a "
        f"Korean sentence instead of {old['tokens_per_sentence']:.1f}, English unchanged."
    )
    return Card(
        name=ctx.recipe.name, config=read_json(ctx.folders["rl"] / "model" / "config.json"),
        base_model=ctx.source.resolve().parent.name if ctx.source.name == "model" else ctx.source.name,
        data=data, receipts=receipts, results=list(results(ctx, "after").values()), notes=[note],
    ).render()  # fmt: skip
