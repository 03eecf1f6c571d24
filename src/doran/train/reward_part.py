"""A preference reward model as a part of RL's reward: `model:DIR`, or with options `model:DIR?scale=2&reads=whole`.

The value is sigmoid((score - center) / scale): the model's own chance (Bradley-Terry) that the reply is preferred to an
average one of the pairs it was measured on. So it lies between 0 and 1 as the other parts do, and a reply without an
answer gets 0. All completions of a step are read in a few batches. A score that is NaN is unjudged, never a number.
Not here: why such a reward is to be used for a short while only (docs/guides/reward-models.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from doran.tasks.rewards import Asked, Case, RewardPart, Unjudged
from doran.tasks.spec import options_of
from doran.train.preference import Reader, open_reward


def model_reward(spec: str) -> RewardPart:
    """The part of model:DIR. ArtifactError: no reward model there; ConfigError: an option."""
    base, options = options_of(spec, {"scale": 1.0, "reads": "", "style": ""})
    reader = open_reward(Path(base.partition(":")[2]), options["reads"], options["style"])
    return ModelReward(reader, options["scale"])


class ModelReward(RewardPart):
    """A reward model in memory."""

    def __init__(self, reader: Reader, scale: float = 1.0) -> None:
        super().__init__("model")
        self.model, self.reading = reader.model.requires_grad_(False), reader.reading
        self.center, self.scale = reader.center, scale
        self.window = reader.model.decoder.config.max_position_embeddings

    def judge_all(self, questions: Sequence[Asked], cases: Sequence[Case]) -> list[float | Unjudged]:
        """The chances; 0 for no answer. A cut reply has none, but where the whole is read it is read as it is."""
        values: list[float | Unjudged] = [0.0] * len(cases)
        read: dict[int, list[int]] = {}
        for place, case in enumerate(cases):
            cut = case.truncated and self.reading.reads == "answer"
            ids = None if cut else self.reading.ids([{"role": "user", "content": case.item.prompt}], case.text)
            if ids is not None and len(ids) > self.window:
                values[place] = Unjudged("too long", f"{len(ids)} tokens, the reward model's window is {self.window}")
            elif ids is not None:
                read[place] = ids
        for place, score in zip(read, self.model.scores(list(read.values())), strict=True):
            values[place] = self._chance(score)
        return values

    def _chance(self, score: float) -> float | Unjudged:
        if not math.isfinite(score):
            return Unjudged("nan", f"the reward model's score is {score}")
        return 0.5 * (1.0 + math.tanh((score - self.center) / self.scale / 2.0))
