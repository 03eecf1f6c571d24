"""Evaluations as the dict that report.py draws, and as lines for a terminal. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from doran.evals.charts import number
from doran.evals.metrics import pass_at_k
from doran.evals.report import duration, eval_table
from doran.evals.run import EvalResult
from doran.text.parse import split_thought

BINS = 12


def page(results: Mapping[str, EvalResult], title: str, command: str = "") -> dict[str, Any]:
    """What `report.write_report` takes: tables by language, pass@k curves, lengths, money, samples, recipe."""
    first = next(iter(results.values()))
    groups = list(first.summary())
    shown = groups if len(groups) > 2 else groups[:1]
    return {
        "title": title,
        "subtitle": f"{len(first.items)} questions, {first.k} replies each. Intervals are 95% and count questions, "
        "not replies; what was cut off counts as no answer.",
        "headline": [card(label, result) for label, result in results.items()],
        "tables": [
            *(eval_table(_group_name(group), results, group) for group in shown),
            cost_table(results),
        ],
        "figures": figures(results),
        "samples": samples(results),
        "command": command,
        "recipe": recipe_text(first),
        "notes": notes(results),
    }


def _group_name(group: str) -> str:
    return {"all": "All questions", "en": "English", "ko": "Korean"}.get(group, group)


def card(label: str, result: EvalResult) -> dict[str, str]:
    """pass@1 as a large figure."""
    seen = result.summary()["all"]["pass@1"]
    value = "-" if seen.value is None else f"{100 * seen.value:.1f}%"
    span = "" if seen.low is None or seen.high is None else f"{100 * seen.low:.1f} to {100 * seen.high:.1f}"
    return {"label": label, "value": value, "note": f"pass@1 on {result.task}, {span}"}


def cost_table(results: Mapping[str, EvalResult]) -> dict[str, Any]:
    """Tokens, time and money, in all and for one correct reply."""
    rows = []
    for label, result in results.items():
        cost = result.facts.get("cost", {})
        each = cost.get("per_correct", {})
        rows.append([
            label, cost.get("tokens"), {"shown": duration(cost.get("seconds"))}, money(cost.get("usd")),
            each.get("tokens"), {"shown": duration(each.get("seconds"))}, money(each.get("usd")),
        ])  # fmt: skip
    columns = ["model", "tokens", "time", "USD", "tokens per correct reply", "time per correct", "USD per correct"]
    return {"title": "Cost", "columns": columns, "rows": rows}


def money(usd: float | None) -> dict[str, str]:
    """A cell; small amounts keep two digits that say something."""
    return {"shown": "–" if usd is None else f"{usd:.2f}" if usd >= 0.1 else f"{usd:.2g}"}


def figures(results: Mapping[str, EvalResult]) -> list[dict[str, Any]]:
    """pass@k by k; how long replies are; how many questions have so many correct replies."""
    k = max(result.k for result in results.values())
    out: list[dict[str, Any]] = []
    if k > 1:
        out.append({
            "title": "pass@k", "x": "k", "y": "share of questions", "percent": True,
            "series": {label: pass_curve(result) for label, result in results.items()},
        })  # fmt: skip
    out.append({
        "title": "Length of replies", "x": "tokens", "y": "share of replies", "percent": True,
        "series": {label: histogram([o.length for i in r.items for o in i.outcomes]) for label, r in results.items()},
    })  # fmt: skip
    if k > 1:
        out.append({
            "title": "Correct replies of a question", "x": "correct of k", "y": "share of questions", "percent": True,
            "series": {label: spread(result) for label, result in results.items()},
        })  # fmt: skip
    return out


def pass_curve(result: EvalResult) -> list[tuple[float, float]]:
    """(k, pass@k) for every k."""
    counts = [item.num_correct for item in result.items]
    return [(k, sum(pass_at_k(result.k, c, k) for c in counts) / len(counts)) for k in range(1, result.k + 1)]


def spread(result: EvalResult) -> list[tuple[float, float]]:
    """(c, share of questions with c correct replies): piled up at both ends where a model knows or does not."""
    counts = [item.num_correct for item in result.items]
    return [(c, counts.count(c) / len(counts)) for c in range(result.k + 1)]


def histogram(lengths: Sequence[int]) -> list[tuple[float, float]]:
    """(middle of a bin, share in it)."""
    low, high = min(lengths), max(lengths)
    width = max((high - low) / BINS, 1)
    bins = [0] * BINS
    for length in lengths:
        bins[min(int((length - low) / width), BINS - 1)] += 1
    used = BINS if high - low >= BINS else max(high - low, 1) + 1
    return [(low + (i + 0.5) * width, count / len(lengths)) for i, count in enumerate(bins[:used])]


def samples(results: Mapping[str, EvalResult], most: int = 3) -> list[dict[str, Any]]:
    """The first kept replies: of each language, right ones and wrong ones."""
    out: list[dict[str, Any]] = []
    for label, result in results.items():
        kinds: dict[tuple[str, bool], int] = {}
        for item in result.items:
            if not item.texts:
                continue
            kind = (item.language, item.outcomes[0].correct)
            if kinds.setdefault(kind, 0) < most:
                kinds[kind] += 1
                thought, answer, _ = split_thought(item.texts[0])
                out.append({"stage": label, "prompt": item.prompt, "thought": thought or None, "answer": answer,
                            "reward": item.outcomes[0].reward, "language": item.language})  # fmt: skip
    return out


def recipe_text(result: EvalResult) -> str:
    """The recipe as people read it."""
    import yaml

    recipe = result.facts.get("recipe")
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True) if recipe else ""


def notes(results: Mapping[str, EvalResult]) -> list[str]:
    """Recipe hashes and what the contamination check found."""
    out = []
    for label, result in results.items():
        if print_ := result.facts.get("recipe_hash"):
            out.append(f"{label}: recipe {print_}; the same recipe gives the same numbers.")
        if found := result.facts.get("contamination"):
            out.append(f"{label}: {contamination_line(found)}")
    return out


# ---- lines for a terminal --------------------------------------------------------------------------------------


def cost_lines(result: EvalResult) -> list[str]:
    """Cost in two lines: altogether, and for a correct reply."""
    cost = result.facts.get("cost")
    if not cost:
        return []
    each = cost.get("per_correct", {})
    lines = [f"{'cost':<18}{_amounts(cost)}"]
    if each.get("tokens") is not None:
        lines.append(f"{'per correct reply':<18}{_amounts(each)}")
    return lines


def _amounts(cost: Mapping[str, Any]) -> str:
    parts = [f"{number(cost['tokens'])} tokens", duration(cost["seconds"])]
    if cost.get("usd") is not None:
        parts.append(f"{money(cost['usd'])['shown']} USD ({number(cost['krw'])} KRW{_how(cost)})")
    return ", ".join(parts)


def _how(cost: Mapping[str, Any]) -> str:
    return f", {cost['price']}" if "price" in cost else ""


def contamination_line(found: Mapping[str, Any]) -> str:
    """One sentence."""
    clean = found["pass@1_unseen"]["value"]
    share = "" if clean is None or not found["seen"] else f"; pass@1 without them {100 * clean:.1f}%"
    return f"{found['seen']} of {found['questions']} questions stand in the training files{share}"
