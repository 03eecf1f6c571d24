"""Small talk and small questions with one checkable answer: the larger of two numbers, even or odd, a greeting.

The "general" share of R1's data (R1 s2.3.3), in small: it keeps a model trained on puzzles able to answer plainly.
Not here: anything that needs a judge.
"""

from __future__ import annotations

import random

from pydantic import Field

from doran.base.config import StrictModel
from doran.tasks.answer import answer_part
from doran.tasks.korean import josa
from doran.tasks.task import (
    Item,
    Language,
    Languages,
    Score,
    Split,
    content_key,
    random_items,
    right,
    wrong,
)


class GeneralConfig(StrictModel):
    """How large the numbers in the questions get."""

    max_number: int = Field(99, ge=3, le=999)


SMALL_TALK = {  # kind: language -> (question, thought, answer)
    "greeting": {
        "en": ("Hello!", "a greeting, greet back", "Hello!"),
        "ko": ("안녕하세요!", "인사이니 인사한다", "안녕하세요!"),
    },
    "thanks": {
        "en": ("Thank you.", "thanks, be polite", "You are welcome."),
        "ko": ("고맙습니다.", "감사에 답한다", "천만에요."),
    },
    "name": {
        "en": ("What is your name?", "asked for my name", "I am doran."),
        "ko": ("이름이 무엇입니까?", "이름을 물었다", "도란입니다."),
    },
}


class GeneralTask:
    """The task `general`."""

    name = "general"

    def __init__(self, config: GeneralConfig | None = None) -> None:
        self.config = config or GeneralConfig()

    def generate(self, split: Split, n: int, seed: int, language: Languages = "mixed") -> list[Item]:
        """`n` questions: half compare two numbers, a third ask for parity, the rest is small talk (training only)."""
        return random_items(self.name, split, n, seed, language, self._draw)

    def _draw(self, rng: random.Random, language: Language) -> Item:
        kind = rng.random()
        if kind < 0.5:
            a, b = rng.sample(range(1, self.config.max_number + 1), 2)
            return self._compare(a, b, language)
        if kind < 0.85:
            return self._parity(rng.randint(1, self.config.max_number), language)
        name = rng.choice(sorted(SMALL_TALK))
        question, thought, answer = SMALL_TALK[name][language]
        return Item(question, answer, language, {"thought": thought}, content_key("general", name))

    def _compare(self, a: int, b: int, language: Language) -> Item:
        low, high = min(a, b), max(a, b)
        if language == "en":
            question, thought = f"Which is larger, {a} or {b}?", f"{low} is less than {high}"
        else:
            question = f"{josa(str(a), '과/와')} {b} 중 어느 것이 더 큽니까?"
            thought = f"{low}보다 {josa(str(high), '이/가')} 크다"
        return Item(question, str(high), language, {"thought": thought}, content_key("general", "compare", a, b))

    def _parity(self, n: int, language: Language) -> Item:
        even = n % 2 == 0
        if language == "en":
            answer, question = ("even" if even else "odd"), f"Is {n} even or odd?"
            thought = f"{n} ends in {n % 10}, so it is {answer}"
        else:
            answer, question = ("짝수" if even else "홀수"), f"{josa(str(n), '은/는')} 짝수입니까, 홀수입니까?"
            thought = f"{n}의 끝은 {n % 10}이므로 {answer}"
        return Item(question, answer, language, {"thought": thought}, content_key("general", "parity", n))

    def score(self, item: Item, completion_text: str) -> Score:
        """Right when the answer part is the expected answer, give or take case, blanks and a final full stop."""
        answer = answer_part(completion_text) or ""
        expected = item.answer or ""
        same = answer.rstrip(".").casefold() == expected.rstrip(".").casefold()
        return right(answer) if same else wrong(answer or None, f"expected {expected!r}")
