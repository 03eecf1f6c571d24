"""Questions, verdicts and completions made by hand, for the tests of evaluations. No test here."""

from __future__ import annotations

from dataclasses import dataclass, field

STOP = 1


@dataclass(frozen=True)
class Item:
    prompt: str
    answer: str | None = "7"
    language: str = "en"
    key: str = "k"
    meta: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    reward: float
    correct: bool
    parsed: str | None
    reason: str = ""


@dataclass(frozen=True)
class Params:
    max_new_tokens: int = 50
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Completion:
    token_ids: list[int]
    finish_reason: str = "stop"


class Sum:
    name = "sum"

    def score(self, item: Item, text: str) -> Score:
        answer = text.rpartition("</think>")[2].strip() or None
        return Score(float(answer == item.answer), answer == item.answer, answer)
