"""Reward parts by name: `get_reward("accuracy")`, `get_reward("regex:\\\\d+")`, `get_reward("mine.py:score")`, ...

A part gives a number for each completion, usually 0 to 1. What could not be judged is never a zero: the part raises
RewardFailed, which names the reason, counts, and carries the values of the others. Weights, advantages and what to do
about failures are training's business (train/judging.py). docs/guides/rewards.md has the list for users.
"""

from __future__ import annotations

import importlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from doran.base.errors import ConfigError, DoranError, suggest
from doran.tasks.answer import answer_part
from doran.tasks.choice import judge_exact
from doran.tasks.format import format_reward
from doran.tasks.language import consistency, leak_share
from doran.tasks.math import MathVerifier
from doran.tasks.task import Item, Score, Task
from doran.text.parse import split_thought


class Asked(Protocol):
    """A question with the task that judges it."""

    @property
    def item(self) -> Item: ...
    @property
    def task(self) -> Task: ...


@dataclass(frozen=True)
class Case:
    """One completion to judge. `truncated`: it hit the length limit, and so has no answer."""

    item: Item
    text: str
    truncated: bool = False

    @property
    def answer(self) -> str:
        """What stands after the thought, "" where there is nothing."""
        return "" if self.truncated else answer_part(self.text) or ""


class Unjudged(Exception):
    """One completion could not be judged; `kind` is a word to count by (raised, timeout, nan, http 500, ...)."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class RewardFailed(DoranError):
    """Some completions could not be judged. `values` holds the others' numbers, None for these; `reasons` says why."""

    def __init__(self, name: str, values: list[float | None], reasons: list[str | None]) -> None:
        failed = [reason for reason in reasons if reason]
        first = f"reward {name}: {len(failed)} of {len(values)} completions could not be judged, the first: {failed[0]}"
        super().__init__(first, hint="mend the reward, or leave such completions out with on_fault=drop")
        self.values, self.reasons = values, reasons


Judge = Callable[[Case], float]
_OF_A_FILE = re.compile(r".+\.py(?::|$)")


class RewardPart:
    """One part of a reward. Call it with questions, texts and whether each was cut short; it gives as many numbers.

    Raises RewardFailed where completions could not be judged; `errors` counts these by kind over the part's life.
    """

    def __init__(self, name: str, judge: Judge | None = None, close: Callable[[], None] | None = None) -> None:
        self.name = name
        self.errors: Counter[str] = Counter()
        self.asked = 0
        self._judge, self._close = judge, close

    def judge_all(self, questions: Sequence[Asked], cases: Sequence[Case]) -> list[float | Unjudged]:
        """The verdicts, one by one; parts that judge many at once override this."""
        return [self._safely(case) for case in cases]

    def _safely(self, case: Case) -> float | Unjudged:
        assert self._judge is not None
        try:
            return self._judge(case)
        except Unjudged as why:
            return why

    def __call__(self, questions: Sequence[Asked], texts: Sequence[str], truncated: Sequence[bool]) -> list[float]:
        cases = [Case(q.item, text, cut) for q, text, cut in zip(questions, texts, truncated, strict=True)]
        verdicts = self.judge_all(questions, cases)
        verdicts = [v if isinstance(v, Unjudged) else _finite(v) for v in verdicts]
        self.asked += len(cases)
        failed = [v for v in verdicts if isinstance(v, Unjudged)]
        self.errors.update(v.kind for v in failed)
        if failed:
            values = [None if isinstance(v, Unjudged) else v for v in verdicts]
            raise RewardFailed(self.name, values, [str(v) if isinstance(v, Unjudged) else None for v in verdicts])
        return [v for v in verdicts if not isinstance(v, Unjudged)]

    def close(self) -> None:
        """End helper processes, if there are any."""
        if self._close:
            self._close()


def _finite(value: Any) -> float | Unjudged:
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    kind = "nan" if isinstance(value, float) else "no number"
    return Unjudged(kind, f"it gave {value!r:.80}, which is no finite number")


class Accuracy(RewardPart):
    """The task's own judge (`score_many` where it has one: code runs side by side)."""

    def judge_all(self, questions: Sequence[Asked], cases: Sequence[Case]) -> list[float | Unjudged]:
        """1 or the task's partial mark; 0 for what was cut short."""
        values: list[float | Unjudged] = [0.0] * len(cases)
        by_task: dict[int, list[int]] = {}
        for place, case in enumerate(cases):
            if not case.truncated:
                by_task.setdefault(id(questions[place].task), []).append(place)
        for places in by_task.values():
            task = questions[places[0]].task
            items, texts = [cases[i].item for i in places], [cases[i].text for i in places]
            many: Callable[..., list[Score]] | None = getattr(task, "score_many", None)
            scores = many(items, texts) if many else [task.score(*pair) for pair in zip(items, texts, strict=True)]
            for place, score in zip(places, scores, strict=True):
                values[place] = score.reward
        return values


def get_reward(spec: str, others: Mapping[str, Callable[[str], RewardPart]] | None = None) -> RewardPart:
    """The part of a spec: NAME, NAME:ARGUMENT or FILE.py:FUNCTION. ConfigError names the mistake.

    `others`: makers of parts that need what stands on higher floors (`model`), by name.
    """
    check_spec(spec)
    if _OF_A_FILE.match(spec):
        return _helper("reward_file", "file_reward", spec)
    name = spec.partition(":")[0]
    return ((others or {}).get(name) or PARTS[name][0])(spec)


def check_spec(spec: str) -> None:
    """ConfigError where no reward is written like this. Opens no file and starts nothing."""
    name, _, argument = spec.partition(":")
    if _OF_A_FILE.match(spec):
        return
    if name not in PARTS:
        raise ConfigError(f"no reward named {name!r}", hint=suggest(name, [*PARTS, "FILE.py:FUNCTION"]))
    form = PARTS[name][1]
    if bool(form) != bool(argument):
        hint = f"write {name}:{form}" if form else f"write {name} alone"
        raise ConfigError(f"reward {spec!r}: {'an argument is missing' if form else 'it takes no argument'}", hint=hint)


def reward_names() -> list[str]:
    """How every kind of spec is written, for help texts."""
    return [f"{name}:{form}" if form else name for name, (_, form) in PARTS.items()] + ["FILE.py:FUNCTION"]


def _helper(module: str, function: str, spec: str) -> RewardPart:
    """A part with heavier needs, from a module of its own."""
    part: RewardPart = getattr(importlib.import_module(f"doran.tasks.{module}"), function)(spec)
    return part


def _simple(judge: Judge) -> Callable[[str], RewardPart]:
    return lambda spec: RewardPart(spec.partition(":")[0], judge)


def _answer(scorer: Any) -> Judge:
    return lambda case: 0.0 if case.truncated else judge_exact(case.item.answer or "", case.text, scorer).reward


def _math(spec: str) -> RewardPart:
    verifier = MathVerifier()
    return RewardPart("math", lambda c: 0.0 if c.truncated else verifier.judge(c.item.answer or "", c.text).reward,
                      verifier.close)


def _regex(spec: str) -> RewardPart:
    """1 where the pattern matches the whole answer part of at most 2,000 characters."""
    try:
        pattern = re.compile(spec.partition(":")[2], re.DOTALL)
    except re.error as error:
        raise ConfigError(f"reward {spec!r}: no regular expression ({error})", hint="mend the pattern") from None
    return RewardPart("regex", lambda case: float(len(case.answer) <= 2000 and bool(pattern.fullmatch(case.answer))))


def _schema(spec: str) -> RewardPart:
    """1 where the answer part, or its only ``` block, is JSON that fits the schema in a file."""
    from doran.tasks.schema import fits, load_schema, read_json_answer

    schema = load_schema(Path(spec.partition(":")[2]))

    def judge(case: Case) -> float:
        found, value = read_json_answer(case.answer)
        return float(found and fits(value, schema) is None)

    return RewardPart("json_schema", judge)


def _length(spec: str) -> RewardPart:
    """1 for MIN to MAX words in the whole reply; outside it falls in a line, to 0 at none or at twice MAX."""
    match = re.fullmatch(r"(\d+)-(\d+)", spec.partition(":")[2])
    low, high = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 <= low <= high or not high:
        raise ConfigError(f"reward {spec!r}: no range of words", hint="write length:20-400")

    def judge(case: Case) -> float:
        count = len(case.text.split())
        return 1.0 if low <= count <= high else count / low if count < low else max(0.0, 2.0 - count / high)

    return RewardPart("length", judge)


def _higher(spec: str) -> RewardPart:
    raise ConfigError(f"reward {spec!r} needs a model, and there is none here", hint="use it in doran rl or a recipe")


PARTS: dict[str, tuple[Callable[[str], RewardPart], str]] = {
    "accuracy": (Accuracy, ""),
    "format": (_simple(lambda case: format_reward(case.text)), ""),
    "language": (_simple(lambda case: consistency(split_thought(case.text).reasoning, case.item.language)), ""),
    "no_leak": (_simple(lambda case: 1.0 - leak_share(case.text)), ""),
    "exact": (_simple(_answer("exact")), ""),
    "choice": (_simple(_answer("choice")), ""),
    "math": (_math, ""),
    "regex": (_regex, "PATTERN"),
    "json_schema": (_schema, "FILE.json"),
    "length": (_length, "MIN-MAX"),
    "judge": (lambda spec: _helper("reward_judge", "judge_reward", spec), "URL?model=NAME"),
    "model": (_higher, "DIR"),
}
"""Name -> (maker, form of its argument)."""
