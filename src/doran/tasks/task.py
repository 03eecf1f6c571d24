"""What a task is: questions whose answers a program can check. Item, Score, Task, and `get_task` to make one by name.

Not here: any task itself (one file each), and the rewards for form (format.py, language.py).
An item's split follows from a hash of its content, never from a seed: a held-out item cannot be drawn for training.
"""

from __future__ import annotations

import hashlib
import importlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from doran.base.config import build
from doran.base.errors import UsageError, suggest
from doran.base.rng import python_rng

Language = Literal["en", "ko"]
Languages = Literal["en", "ko", "mixed"]
Split = Literal["train", "test"]

TEST_ONE_IN = 8
"""One item in eight is held out."""


@dataclass(frozen=True)
class Item:
    """One question. `key` hashes its content, language left out, and decides the split; `meta` holds extras."""

    prompt: str
    answer: str | None
    language: Language
    meta: dict[str, Any] = field(default_factory=dict)
    key: str = ""


@dataclass(frozen=True)
class Score:
    """The verdict on one completion: reward in [0, 1], the answer as read (None if none was found), and why."""

    reward: float
    correct: bool
    parsed: str | None
    reason: str


class Task(Protocol):
    """A generator of items and the judge of their answers."""

    name: str

    def generate(self, split: Split, n: int, seed: int, language: Languages = "mixed") -> list[Item]:
        """`n` items of `split`. The same arguments give the same items; other languages give the same questions."""
        ...

    def score(self, item: Item, completion_text: str) -> Score:
        """Judge a completion by the text after `</think>` only.

        Where the chat template already wrote the opening tag, put `<think>` before the text, so that a thought
        that was cut short is seen as one and holds no answer.
        """
        ...


def right(parsed: str | None, reason: str = "right") -> Score:
    """Full marks."""
    return Score(1.0, True, parsed, reason)


def wrong(parsed: str | None, reason: str) -> Score:
    """No marks, and why."""
    return Score(0.0, False, parsed, reason)


def content_key(*parts: object) -> str:
    """Hash (sha256, hex) of what makes an item the item it is. Leave the language and the seed out."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def split_of(key: str) -> Split:
    """The split a key belongs to, for ever: one in `TEST_ONE_IN` keys is held out."""
    return "test" if int(key[:12], 16) % TEST_ONE_IN == 0 else "train"


def check_request(split: str, n: int, language: str) -> None:
    """Refuse a call to `generate` that names no split, no language or a negative count (UsageError)."""
    if split not in get_args(Split):
        raise UsageError(f"no split named {split!r}", hint="use train or test")
    if language not in get_args(Languages):
        raise UsageError(f"no language named {language!r}", hint="use en, ko or mixed")
    if n < 0:
        raise UsageError(f"cannot make {n} items", hint="ask for 0 or more")


def languages(language: Languages, n: int) -> Iterator[Language]:
    """The language of each of `n` items; mixed takes turns, so both are equally many."""
    for i in range(n):
        yield ("en", "ko")[i % 2] if language == "mixed" else language


def number_instructions(language: Language) -> str:
    """A sentence for models never trained on the bare question: think in tags, answer with a number in tags."""
    if language == "en":
        return " Think inside <think> </think> tags and end with the number inside <answer> </answer> tags."
    return " <think> </think> 태그 안에서 생각한 뒤 마지막에 수를 <answer> </answer> 태그 안에 쓰세요."


def draw_items(split: Split, n: int, draw: Callable[[int, int], Item], max_tries: int = 2000) -> list[Item]:
    """Items 0..n-1 of a split by rejection: `draw(index, attempt)` proposes one; the held-out ones are all distinct.

    Raises UsageError where `max_tries` proposals for one index held nothing new of this split.
    """
    items: list[Item] = []
    seen: set[str] = set()
    for index in range(n):
        for attempt in range(max_tries):
            item = draw(index, attempt)
            if split_of(item.key) == split and not (split == "test" and item.key in seen):
                break
        else:
            hint = "ask for fewer or widen the task"
            raise UsageError(f"found only {index} different {split} items of {n}", hint=hint)
        seen.add(item.key)
        items.append(item)
    return items


def random_items(
    name: str, split: Split, n: int, seed: int, language: Languages, make: Callable[[random.Random, Language], Item]
) -> list[Item]:
    """`n` items that `make(rng, language)` writes, each from a stream named after the task, split, seed and place.

    UsageError on a request that names no split, no language or a negative count, or where the items run out.
    """
    check_request(split, n, language)
    each = list(languages(language, n))

    def draw(index: int, attempt: int) -> Item:
        return make(python_rng(name, split, seed, index, attempt), each[index])

    return draw_items(split, n, draw)


_TASKS = {
    "countdown": ("countdown", "CountdownTask", "CountdownConfig"),
    "arithmetic": ("arithmetic", "ArithmeticTask", "ArithmeticConfig"),
    "word_problems": ("words", "WordsTask", "WordsConfig"),
    "general": ("general", "GeneralTask", "GeneralConfig"),
    "jsonl": ("jsonl", "JsonlTask", "JsonlConfig"),
    "gsm8k": ("jsonl", "Gsm8kTask", "JsonlConfig"),
    "choice": ("choice", "ChoiceTask", "ChoiceConfig"),
    "math": ("suites", "MathTask", "JsonlConfig"),
    "aime": ("suites", "AimeTask", "JsonlConfig"),
    "hrm8k": ("suites", "Hrm8kTask", "JsonlConfig"),
    "kmmlu": ("suites", "KmmluTask", "ChoiceConfig"),
    "haerae": ("suites", "HaeraeTask", "ChoiceConfig"),
    "ifeval": ("ifeval", "IfevalTask", "IfevalConfig"),
    "humaneval": ("code", "HumanEvalTask", "CodeConfig"),
    "mbpp": ("code", "MbppTask", "CodeConfig"),
    "code": ("code", "CodeTask", "CodeConfig"),
    "gym": ("gym", "GymTask", "GymConfig"),
}


_MAKE_THEIR_OWN = ("countdown", "arithmetic", "word_problems", "general", "gym")


def takes_file(name: str) -> bool:
    """Does the task ask the questions of a file (its setting `data`), rather than make its own?"""
    return name in _TASKS and name not in _MAKE_THEIR_OWN


def task_names() -> list[str]:
    """Every name `get_task` knows; a reasoning-gym task is written `gym:NAME`."""
    return ["gym:NAME" if name == "gym" else name for name in _TASKS]


def get_task(name: str, **config: Any) -> Task:
    """Make the task `name` with these settings. UsageError names the nearest task, ConfigError the nearest setting."""
    base, colon, rest = name.partition(":")
    if base not in _TASKS or (base == "gym") != bool(colon and rest):
        raise UsageError(f"no task named {name!r}", hint=suggest(base, task_names()))
    module_name, task_class, config_class = _TASKS[base]
    module = importlib.import_module(f"doran.tasks.{module_name}")
    if base == "gym":
        config = {"dataset": rest, **config}
    settings = build(getattr(module, config_class), config, where=f"task {name}")
    task: Task = getattr(module, task_class)(settings)
    return task
