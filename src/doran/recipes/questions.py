"""Questions of several tasks in one pool: drawing by share, judging each by its own task, and the reward functions of RL."""

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
from doran.text.parse import split_thought
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


def dialect(tokenizer: Tokenizer, style: PromptStyle) -> Dialect:
    """How questions become ids and completions become text, for the trainer."""
    return Dialect(lambda q: style(tokenizer, q.prompt), lambda ids: tokenizer.decode(ids), tuple(tokenizer.stop_ids))


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
    return [0.0 if c.finish_reason == "length" else q.task.score(q.item, t).reward for q, t, c in zip(questions, texts, completions, strict=True)]


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
