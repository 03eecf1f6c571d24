"""Questions of several tasks in one pool: drawing by share, judging each by its own task, RL's reward functions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from doran.engine.request import Completion
from doran.evals.run import PromptStyle
from doran.tasks.rewards import RewardPart, get_reward
from doran.tasks.task import Item, Task
from doran.text.parse import OPEN, opens_thought
from doran.text.tokenizer import Tokenizer
from doran.train.reward_part import model_reward
from doran.train.rollout import Dialect, Draw, Reward, RewardFn


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


def rewards(weights: dict[str, float]) -> list[Reward]:
    """Reward functions by spec (tasks/rewards.py) and weight; ConfigError names the nearest valid name."""
    parts = [(get_reward(spec, {"model": model_reward}), weight) for spec, weight in weights.items()]
    names = [part.name for part, _ in parts]
    made = []
    for place, (part, weight) in enumerate(parts):
        again = names[:place].count(part.name)  # two patterns, two judges: each has its own figures
        made.append(Reward(f"{part.name}-{again + 1}" if again else part.name, weight, _scored_by(part)))
    return made


def _scored_by(part: RewardPart) -> RewardFn:
    def fn(questions: list[Any], texts: list[str], completions: list[Completion]) -> list[float]:
        return part(questions, texts, [completion.finish_reason == "length" for completion in completions])

    return fn
