"""Judge answers to mathematics: numbers exactly and at once, other mathematics by math-verify in a process we can kill.

Not here: step-by-step grading. A question whose answer is a number wants a number: `16 - 3` is not accepted for 13,
or restating the question would pay. Nothing a model wrote is ever evaluated in this process.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from fractions import Fraction

from doran.tasks import answer as answers
from doran.tasks.math_process import Workers
from doran.tasks.numbers import clean, find_value, last_value, read_value
from doran.tasks.task import Score, right, wrong

Symbolic = Callable[[str, str], Score]
"""(gold, answer) -> verdict, for what is not a number"""

MAX_SYMBOLIC_CHARS = 300
MAX_DEPTH = 20
_TOWER = re.compile(r"(?:\^|\*\*)[^=,]{0,40}?(?:\^|\*\*)[^=,]{0,40}?(?:\^|\*\*)|\d{30}|\d{4}\s?!|!\s?!")


def judge_number(gold: str, completion_text: str) -> Score:
    """Judge by value alone, in microseconds: for tasks whose answers are numbers. No lenient reading."""
    return _Judge(gold, completion_text, lenient=False).score(None)


class MathVerifier:
    """Judges with a pool of worker processes for what is not a number; they start at the first need.

    `timeout_s` and `memory_mb` bound one comparison. `lenient` takes the last number of an answer that states none.
    """

    def __init__(self, timeout_s: float = 3.0, memory_mb: int = 1024, workers: int = 1, lenient: bool = False) -> None:
        self.lenient = lenient
        installed = importlib.util.find_spec("math_verify") and importlib.util.find_spec("sympy")
        self.workers = Workers(workers, timeout_s, memory_mb) if installed else None

    def judge(self, gold: str, completion_text: str) -> Score:
        """1 if the stated answer equals `gold`, else 0 with the reason."""
        return _Judge(gold, completion_text, self.lenient).score(self._symbolic)

    def _symbolic(self, gold: str, text: str) -> Score:
        if len(text) > MAX_SYMBOLIC_CHARS or depth(text) > MAX_DEPTH or _TOWER.search(text):
            return wrong(text, "refused: too long, too deep or too large to compare")
        if self.workers is None:
            return wrong(text, "differs as text; without math-verify only numbers and fractions are compared by value "
                               "(pip install 'doran[math]')")
        equal, reason = self.workers.equal(gold, text)
        return right(text, reason) if equal else wrong(text, reason)

    def close(self) -> None:
        """End the worker processes. They also end by themselves when this process does."""
        if self.workers:
            self.workers.close()


class _Judge:
    """One answer against one gold answer."""

    def __init__(self, gold: str, completion_text: str, lenient: bool) -> None:
        self.gold, self.lenient = gold.strip(), lenient
        self.gold_value = read_value(self.gold)
        self.part = answers.answer_part(completion_text)

    def score(self, symbolic: Symbolic | None) -> Score:
        if not self.part:
            return wrong(None, "the thought was never closed" if self.part is None else "no answer")
        if len(self.part) > answers.MAX_ANSWER_CHARS:
            return wrong(None, "answer too long")
        found = answers.stated(self.part)
        spans = found.spans if found else [self.part]
        if found and found.conflicting and not self._agree(spans):
            return wrong(found.last[: answers.MAX_SPAN_CHARS], "several different answers")
        score = self._compare(spans[-1][: answers.MAX_SPAN_CHARS], symbolic if found or len(self.part) <= 200 else None)
        if not score.correct and self.lenient and not found and self.gold_value is not None:
            last = last_value(self.part)
            if last:
                return self._by_value(*last)
        return score

    def _agree(self, spans: list[str]) -> bool:
        values = {find_value(span) for span in spans[-50:]}
        return len(values) == 1 and None not in values

    def _compare(self, text: str, symbolic: Symbolic | None) -> Score:
        if plain(text) == plain(self.gold):
            return right(text)
        if self.gold_value is not None:
            value = find_value(text)
            return wrong(text, "no number") if value is None else self._by_value(text, value)
        return symbolic(self.gold, text) if symbolic else wrong(text, "differs")

    def _by_value(self, text: str, value: Fraction) -> Score:
        percent = clean(text).endswith("%") and not clean(self.gold).endswith("%")
        if value == self.gold_value or (percent and value / 100 == self.gold_value):
            return right(text)
        return wrong(text, f"{text.strip()[:40]} is not {self.gold[:40]}")


def plain(text: str) -> str:
    """A text as compared letter by letter: no LaTeX noise, spaces, case or polite Korean ending."""
    text = re.sub(r"\s", "", clean(text)).casefold()
    text = re.sub(r"(?:입니다|이다|이에요|예요)$", "", text)
    return text[1:-1] if re.fullmatch(r"\(\w\)", text) else text  # option labels: (나), (b)


def depth(text: str) -> int:
    """Deepest nesting of brackets of any kind."""
    deepest = level = 0
    for letter in text:
        if letter in "([{":
            level += 1
            deepest = max(deepest, level)
        elif letter in ")]}":
            level = max(0, level - 1)
    return deepest
