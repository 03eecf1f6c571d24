"""Search in writing: what a thought about a Countdown puzzle with three numbers looks like.

A thought opens branches ("try 3 * 7 = 21: 21 + 12 = 33 low, 21 - 12 = 9 low; ..."): a first step with two of the
numbers, then steps with its result and the third, each compared with the target. For pretraining, `transcript` writes
the short searches a base model learns from: branches come in one fixed order (so that the gradient is not spent on
guessing it, and none comes twice), and most searches give up after one or two of them, with a wrong answer.
Checking is there to be learned (`demonstration`, `checks`, `openings`); persistence is not: that is left to
reinforcement learning. `readable` rewrites a correct thought by rule for the cold start.
Not here: puzzles and the judge (countdown.py), and the prompt's wrapping.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import Field

from doran.base.config import StrictModel
from doran.tasks.task import Language


class SearchStyle(StrictModel):
    """How the searches in the pretraining text go wrong."""

    stop: float = Field(0.75, ge=0, le=1, description="chance to give up after a branch")
    persistent: float = Field(0.04, ge=0, le=1, description="share of searches that never give up")
    lead_on: float = Field(0.8, ge=0, lt=1, description="chance that a demonstration has one more branch")
    near_misses: float = Field(0.5, ge=0, le=1, description="chance that a demonstration passes a near miss, if it can")
    max_value: int = Field(150, ge=1, description="steps with a larger result are not tried")


WORDS = {
    "en": {
        "try": "try ", "low": " low", "high": " high", "hit": " yes", "stop": "give up",
    },
    "ko": {
        "try": "시도 ", "low": " 작다", "high": " 크다", "hit": " 맞다", "stop": "포기",
    },
}  # fmt: skip
"""Low and high compare a result with the target: a verdict on every step is dense teaching, a rare "yes" is not."""


NEAR = 2
"""A miss by no more than this is a near one."""


def verdict(value: int, target: int, language: Language) -> str:
    """The word after a result."""
    return WORDS[language]["hit" if value == target else "low" if value < target else "high"]


Segment = tuple[str, bool]
"""A piece of a document and whether it is to be learned: numbers drawn at random teach nothing but noise."""


@dataclass(frozen=True)
class Branch:
    """A first step, e.g. "3 * 7" with value 21, and the number that is left."""

    text: str
    value: int
    rest: int


def steps(a: int, b: int, max_value: int) -> list[tuple[str, int]]:
    """Every sensible step with a and b as (template, value); the templates hold {a} and {b}.

    Differences and quotients are written larger first; a zero difference and a division by one are not sensible.
    """
    high, low = ("{a}", "{b}") if a >= b else ("{b}", "{a}")
    found = [("{a} + {b}", a + b), ("{a} * {b}", a * b)]
    if a != b:
        found.append((f"{high} - {low}", abs(a - b)))
    if min(a, b) > 1 and max(a, b) % min(a, b) == 0:
        found.append((f"{high} / {low}", max(a, b) // min(a, b)))
    return [step for step in found if step[1] <= max_value]


def branches(nums: Sequence[int], max_value: int) -> list[Branch]:
    """All different first steps of a puzzle with three numbers."""
    found: dict[Branch, None] = {}
    for i, j, k in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        for template, value in steps(nums[i], nums[j], max_value):
            branch = Branch(template.format(a=nums[i], b=nums[j]), value, nums[k])
            found[branch] = None
    return list(found)


def transcript(
    rng: random.Random, nums: Sequence[int], target: int, language: Language, style: SearchStyle
) -> tuple[list[Segment], bool]:
    """A completion `<think>...</think>answer` in segments, and whether its search noticed a hit (else it is wrong)."""
    words, order = WORDS[language], branches(nums, style.max_value)
    persistent = rng.random() < style.persistent
    said: list[Segment] = []
    for branch in order:
        line, answer, hit = _explore(branch, target, language, style)
        start = ("; " if said else "<think>") + words["try"]
        said.append((f"{start}{branch.text} = {branch.value}: {line}", True))
        if hit:
            return [*said, (f"</think>{answer}", True)], True
        if not persistent and rng.random() < style.stop:
            break
    return [*said, (f"; {words['stop']}</think>{answer}", True)], False


def demonstration(
    rng: random.Random, nums: Sequence[int], language: Language, style: SearchStyle, usable: Callable[[int], bool]
) -> tuple[int, list[Segment]] | None:
    """(target, completion) of a search that is led to a hit: the target is a result of its last branch.

    That one more branch comes at all is given and not learned: working out, checking and answering are taught here
    over thoughts of every length, persisting is not. Targets close to an earlier result are preferred, since they teach
    checking best. `usable` says which may be used (in range, not held out). None where the last branch has none.
    """
    words, order = WORDS[language], branches(nums, style.max_value)
    count = 1
    while count < len(order) and rng.random() < style.lead_on:
        count += 1
    *misses, last = order[:count]
    results = [value for _, value in steps(last.value, last.rest, style.max_value)]
    earlier = {value for b in misses for _, value in steps(b.value, b.rest, style.max_value)}
    targets = [value for value in dict.fromkeys(results) if value not in earlier and usable(value)]
    if not targets:
        return None
    near = [t for t in targets if any(abs(t - value) <= NEAR for value in earlier)]
    target, said = rng.choice(near if near and rng.random() < style.near_misses else targets), []
    for number, branch in enumerate(order[:count]):
        line, answer, _ = _explore(branch, target, language, style)
        start, go_on = ("; ", False) if number else ("<think>", True)
        said += [
            (start + words["try"], go_on),
            (f"{branch.text} = {branch.value}: {line}", True),
        ]
    return target, [*said, (f"</think>{answer}", True)]


def _explore(branch: Branch, target: int, language: Language, style: SearchStyle) -> tuple[str, str, bool]:
    """Steps from a branch's value up to a hit: the text, the last one as a full expression, and whether it is a hit."""
    said, answer = [], ""
    for template, value in steps(branch.value, branch.rest, style.max_value):
        said.append(f"{template.format(a=branch.value, b=branch.rest)} = {value}{verdict(value, target, language)}")
        answer = template.format(a=f"({branch.text})", b=branch.rest)
        if value == target:
            return ", ".join(said), answer, True
    return ", ".join(said), answer, False


_BRANCH = re.compile(r"(\d+ [-+*/] \d+ = \d+): ([^;:]*)")
_EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def readable(thought: str, target: int, language: Language) -> str | None:
    """A correct thought rewritten by rule (R1 s2.3.1): branches and steps once each, in the question's language.

    It ends at the first hit. None where an equation is wrong or there is no hit: that is not worth learning from.
    """
    words, opened = WORDS[language], set[str]()
    lines: list[str] = []
    for opening, body in _BRANCH.findall(thought):
        equations = list(dict.fromkeys(m.group() for m in _EQUATION.finditer(body)))
        if not all(map(_holds, [opening, *equations])):
            return None
        if opening in opened or not equations:
            continue
        opened.add(opening)
        results = [int(e.rsplit(" ", 1)[1]) for e in equations]
        kept = equations[: results.index(target) + 1] if target in results else equations
        said = [e + verdict(value, target, language) for e, value in zip(kept, results, strict=False)]
        lines.append(f"{words['try']}{opening}: {', '.join(said)}")
        if target in results:
            return "; ".join(lines)
    return None


def _holds(equation: str) -> bool:
    match = _EQUATION.fullmatch(equation)
    if match is None:
        return False
    a, op, b, value = int(match[1]), match[2], int(match[3]), int(match[4])
    return {"+": a + b == value, "-": a - b == value, "*": a * b == value, "/": b != 0 and a == b * value}[op]


def worked(solution: Sequence[tuple[str, int]], language: Language, in_words: bool) -> str:
    """The steps of an arithmetic or word problem: "3 + 4 = 7, 7 * 2 = 14"; `in_words`: "first 3 + 4 = 7, next ..."."""
    said = [f"{_spaced(expression)} = {value}" for expression, value in solution]
    return _in_words(said, language) if in_words else ", ".join(said)


def readable_steps(thought: str, language: Language) -> str | None:
    """The equations of a thought once each, joined by words; None where one is wrong or there is none."""
    equations = list(dict.fromkeys(m.group() for m in _EQUATION.finditer(thought)))
    return _in_words(equations, language) if equations and all(map(_holds, equations)) else None


def _in_words(equations: Sequence[str], language: Language) -> str:
    first, following = {"en": ("first ", "next "), "ko": ("먼저 ", "다음 ")}[language]
    return ", ".join((following if i else first) + equation for i, equation in enumerate(equations))


def _spaced(expression: str) -> str:
    return re.sub(r"\s*([-+*/])\s*", r" \1 ", expression)


def number_facts(rng: random.Random, max_number: int, max_value: int) -> list[Segment]:
    """A line of 6 to 12 equations over the numbers that searches meet; only their results are to be learned."""
    said: list[Segment] = []
    for index in range(rng.randint(6, 12)):
        a, b = rng.randint(1, max_number), rng.randint(1, max_number)
        if rng.random() < 0.5:
            a = rng.choice(steps(a, rng.randint(1, max_number), max_value))[1]
        template, value = rng.choice(steps(a, b, max_value))
        said += [(f"{', ' if index else ''}{template.format(a=a, b=b)} = ", False), (str(value), True)]
    return said


def checks(rng: random.Random, target: int, language: Language, max_value: int) -> list[Segment]:
    """A drill in comparing with the target: "51 yes, 62 high, 49 low"; only the verdicts are to be learned.

    A quarter are hits, and three quarters of the misses are close, most of these by three or less: a search ends wrong
    where a near miss passes for a hit, and the model must not make that mistake late in a long thought either.
    """
    said: list[Segment] = [("<think>", False)]
    for _ in range(rng.randint(5, 24)):
        value = target if rng.random() < 0.25 else _miss(rng, target, max_value)
        said += [(str(value), False), (verdict(value, target, language) + ", ", True)]
    return said


def _miss(rng: random.Random, target: int, max_value: int) -> int:
    """A value near the target in three cases of four; with bad luck it is the target after all."""
    if rng.random() < 0.75:
        away = rng.randint(1, 3) if rng.random() < 0.6 else rng.randint(4, 10)
        return max(1, target + rng.choice((-away, away)))
    return rng.randint(1, max_value * 3 // 4)


def openings(rng: random.Random, nums: Sequence[int], language: Language, max_value: int) -> str:
    """A drill in using the question's numbers: first steps and the number each leaves, "try 8 / 2: 5; try 8 + 2: 5"."""
    order = branches(nums, max_value)
    return "<think>" + "; ".join(f"{WORDS[language]['try']}{b.text}: {b.rest}" for b in order[: rng.randint(4, 9)])
