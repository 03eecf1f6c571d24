"""What RL remembers of its prompts: how often each is solved (`PromptBook`), and groups worth a second look (`Replay`).

Both live in a dict of plain JSON that the checkpoint keeps, so a continued run chooses as an undisturbed one would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from doran.engine.request import Completion
from doran.train.samples import Dialect, Sample, groups_of, item_key

PRIOR = 2.0  # how many completions the mean over all prompts counts for, where a prompt has few of its own
FADE = 0.7  # what an earlier look at a prompt is worth when there is a new one: the policy has moved


class PromptBook:
    """Success rates by prompt: `memory[key] = [completions, successes]`, both fading."""

    def __init__(self, memory: dict[str, list[float]]) -> None:
        self.memory = memory

    def observe(self, samples: Sequence[Sample]) -> None:
        """Note how the groups of a rollout fared."""
        for group in groups_of([x for x in samples if x.fault is None]):
            seen = self.memory.setdefault(item_key(group[0].item), [0.0, 0.0])
            seen[0] = FADE * seen[0] + len(group)
            seen[1] = FADE * seen[1] + sum(success(x) for x in group)

    def rate(self, item: Any) -> float:
        """The estimated success rate: a prompt's own, drawn towards the mean of all where little is known of it."""
        totals = [sum(column) for column in zip(*self.memory.values(), strict=True)] or [0.0, 0.0]
        return self._rate(item, totals[1] / totals[0] if totals[0] else 0.5)

    def choose(self, candidates: Sequence[Any], n: int) -> list[Any]:
        """The n with the largest variance p (1 - p), in the order they came; none twice while there are others."""
        totals = [sum(column) for column in zip(*self.memory.values(), strict=True)] or [0.0, 0.0]
        mean = totals[1] / totals[0] if totals[0] else 0.5
        seen: set[str] = set()
        ranks = []
        for i, item in enumerate(candidates):
            p, again = self._rate(item, mean), item_key(item) in seen
            seen.add(item_key(item))
            ranks.append((again, -p * (1 - p), i))
        return [candidates[i] for i in sorted(i for *_, i in sorted(ranks)[:n])]

    def _rate(self, item: Any, mean: float) -> float:
        count, successes = self.memory.get(item_key(item), (0.0, 0.0))
        return (successes + PRIOR * mean) / (count + PRIOR)


def success(sample: Sample) -> float:
    """How well a sample did, 0..1: its accuracy where there is such a part, else its reward."""
    return min(1.0, max(0.0, sample.rewards.get("accuracy", sample.reward)))


class Replay:
    """Groups that taught something, newest last: each is learnt from once more at most, while it is young enough."""

    def __init__(self, memory: list[dict[str, Any]], capacity: int, max_age: int) -> None:
        self.memory, self.capacity, self.max_age = memory, capacity, max_age

    def remember(self, kept: Sequence[Sample], step: int) -> None:
        """Add the groups of a step; the oldest make room."""
        self.memory += [{"step": step, "samples": [_row(x) for x in group]} for group in groups_of(kept)]
        del self.memory[: -self.capacity]

    def take(self, n: int, step: int, dialect: Dialect, first_group: int) -> list[Sample]:
        """Up to n groups, those with the largest spread of reward first, and out of the memory. Too old ones go too."""
        self.memory[:] = [group for group in self.memory if step - group["step"] <= self.max_age]
        order = sorted(range(len(self.memory)), key=lambda i: (-_spread(self.memory[i]), -i))[: max(n, 0)]
        groups = [self.memory[i] for i in order]
        self.memory[:] = [group for i, group in enumerate(self.memory) if i not in order]
        return [
            _sample(row, first_group + number, step - group["step"], dialect.text)
            for number, group in enumerate(groups)
            for row in group["samples"]
        ]


def _spread(group: dict[str, Any]) -> float:
    rewards = [row["reward"] for row in group["samples"]]
    mean = sum(rewards) / len(rewards)
    return sum((r - mean) ** 2 for r in rewards) / len(rewards)


def _row(x: Sample) -> dict[str, Any]:
    c = x.completion
    return {
        "prompt_ids": x.prompt_ids, "token_ids": c.token_ids, "logprobs": c.logprobs, "finish_reason": c.finish_reason,
        "mask": x.mask, "rewards": x.rewards, "reward": x.reward, "advantage": x.advantage,
    }  # fmt: skip


def _sample(row: dict[str, Any], group: int, age: int, text: Callable[[Completion], str]) -> Sample:
    completion = Completion(row["token_ids"], row["logprobs"], row["finish_reason"])
    return Sample(
        None, group, row["prompt_ids"], completion, text(completion), row["rewards"], row["reward"], row["advantage"],
        row["mask"], age=age,
    )  # fmt: skip
