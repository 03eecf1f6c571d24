"""`doran eval compare A.json B.json`: is B better than A, on the same questions? A part of `doran eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from doran.cli.options import Json, print_json, say

if TYPE_CHECKING:
    from doran.evals.compare import Comparison


def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="A result that `doran eval --out` wrote.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="The result to hold against it.")],
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="KEY", help="Compare although this part of the recipes differs. Repeat."),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write both on a page.")] = None,
    as_json: Json = False,
) -> None:
    """Test two results on the same questions: the difference, its interval, and how likely chance alone makes it.

    The test is exact (McNemar's for one reply a question) and counts questions. Results that were asked other
    questions, or in another way, are refused.

    Example: doran eval compare before.json after.json
    """
    from doran.evals.compare import compare as compared
    from doran.evals.run import EvalResult

    first, second = EvalResult.load(a), EvalResult.load(b)
    found = compared(first, second, allow or [])
    if html is not None:
        from doran.evals.page import page
        from doran.evals.report import write_report

        write_report(html, page({a.stem: first, b.stem: second}, f"{a.stem} and {b.stem} on {first.task}"))
        say(f"page: {html}")
    if as_json:
        print_json({"a_file": str(a), "b_file": str(b), "task": first.task, **found.to_dict()})
    else:
        print("\n".join(lines(a.stem, b.stem, found)))


def lines(a: str, b: str, found: Comparison) -> list[str]:
    """For people."""
    low, high = found.interval.low or 0.0, found.interval.high or 0.0
    difference, questions = found.difference, found.difference.questions
    same = questions - difference.wins - difference.losses
    verdict = f"{b if found.b > found.a else a} is better" if found.p_value < 0.05 else "no difference that is sure"
    return [
        f"{'A':<12}{a}: pass@1 {found.a:.3f}",
        f"{'B':<12}{b}: pass@1 {found.b:.3f}",
        f"{'B - A':<12}{found.b - found.a:+.3f} [{low:+.3f}, {high:+.3f}], bootstrap over {questions} questions",
        f"{'questions':<12}B better on {difference.wins}, A better on {difference.losses}, the same on {same}",
        f"{'p':<12}{found.p_value:.2g} ({found.test})",
        f"{'tokens':<12}{found.tokens.value or 0.0:+.1f} a reply",
        f"{'verdict':<12}{verdict}",
    ]
