"""Questions of several tasks in one pool: drawing by share, judging each by its own task, RL's reward functions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from doran.base.errors import ConfigError, suggest
from doran.engine.request import Completion
from doran.evals.run import PromptStyle
from doran.tasks.format import format_reward
from doran.tasks.language import consistency
from doran.tasks.task import Item, Task
from doran.text.parse import OPEN, opens_thought, split_thought
from doran.text.tokenizer import Tokenizer
from doran.train.rollout import Dialect, Draw, Reward


@dataclass(frozen=True)
class Question:
    """An item with the task that judges it."""

    item: Item
    task: Task

    @property
    def prompt(self) -> str:
        return self.item.prompt

    @property
    def language(self) -> str:
        return self.item.language


class OpenedDialect(Dialect):
    """For prompts that end inside a thought (R1-Distill's template): rewards read the `<think>` the prompt wrote."""

    def text(self, completion: Completion) -> str:
        return OPEN + super().text(completion)


def opens(tokenizer: Tokenizer, style: PromptStyle) -> bool:
    """Does a prompt of this style end with `<think>`, so that completions begin inside the thought?"""
    return opens_thought(tokenizer.decode(style(tokenizer, "?")[-16:]))  # the tag may be several tokens


def dialect(tokenizer: Tokenizer, style: PromptStyle) -> Dialect:
    """How questions become ids and completions become text, for the trainer."""
    kind = OpenedDialect if opens(tokenizer, style) else Dialect
    return kind(lambda q: style(tokenizer, q.prompt), lambda ids: tokenizer.decode(ids), tuple(tokenizer.stop_ids))


def pools(tasks: dict[str, Task], names: Sequence[str], size: int, seed: int) -> dict[str, list[Question]]:
    """Training questions of each task, half in each language."""
    return {name: [Question(item, tasks[name]) for item in tasks[name].generate("train", size, seed)] for name in names}


def drawing(pool: dict[str, list[Question]], shares: dict[str, float]) -> Draw:
    """Draws n questions, each from a task chosen by its share."""
    names = [name for name, share in shares.items() if share > 0]
    weights = [shares[name] for name in names]

    def draw(rng: random.Random, n: int) -> list[Question]:
        return [rng.choice(pool[name]) for name in rng.choices(names, weights, k=n)]

    return draw


def _accuracy(questions: list[Any], texts: list[str], completions: list[Completion]) -> list[float]:
    return [
        0.0 if c.finish_reason == "length" else q.task.score(q.item, t).reward
        for q, t, c in zip(questions, texts, completions, strict=True)
    ]


def _format(questions: list[Any], texts: list[str], completions: list[Completion]) -> list[float]:
    return [format_reward(text) for text in texts]


def _language(questions: list[Any], texts: list[str], completions: list[Completion]) -> list[float]:
    return [consistency(split_thought(text).reasoning, q.language) for q, text in zip(questions, texts, strict=True)]


REWARDS = {"accuracy": _accuracy, "format": _format, "language": _language}
"""accuracy: the task's own judge, truncated completions count as no answer; format: R1-Zero's; language: R1 s2.3.2."""


def rewards(weights: dict[str, float]) -> list[Reward]:
    """Reward functions by name and weight; ConfigError names the nearest valid name."""
    for name in weights:
        if name not in REWARDS:
            raise ConfigError(f"no reward named {name!r}", hint=suggest(name, list(REWARDS)))
    return [Reward(name, weight, REWARDS[name]) for name, weight in weights.items()]
