"""Items in, completions out: the rollout's side of the engine. Groups, turns in an environment, endless repetitions.

Every prompt has its own seed, named by the run's seed, the step and its place, so groups draw independently and a step
can be sampled again. A turn after the first is a new request whose prompt is all that was said so far: tokens, never
text, so what is learnt is what was sampled. Several processes sample a share of the prompts each and tell each other;
whose share a prompt is in changes nothing of its completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from doran.base.errors import DataError, DoranError
from doran.base.rng import seed_for
from doran.engine.engine import Engine
from doran.engine.remote import RemoteEngine
from doran.engine.request import Completion, SamplingParams
from doran.parallel.world import SOLO, World
from doran.train.grpo_settings import GrpoSettings
from doran.train.samples import Dialect, Environment, Reply, Sample, item_key

Said = tuple[Completion, "list[bool] | None", "str | None"]
"""What was sampled, its mask, its fault."""
LONGEST_PERIOD, FEWEST_COPIES, SHORTEST_CIRCLE = 48, 4, 48


@dataclass(frozen=True)
class Sampler:
    """Who samples (`engine`), between which texts and ids (`dialect`), with which settings, talking to whom."""

    engine: Engine | RemoteEngine
    dialect: Dialect
    settings: GrpoSettings
    environment: Environment | None = None
    world: World = SOLO

    def groups(
        self,
        items: Sequence[Any],
        when: tuple[int, int],
        first_group: int = 0,
        n: int | None = None,
        stream: str = "grpo rollout",
    ) -> list[Sample]:
        """`n` completions of each item (default: group_size), group by group. `when`: (step, attempt)."""
        s, n = self.settings, n or self.settings.group_size
        prompts = [list(self.dialect.encode(item)) for item in items]

        def work(own: range) -> list[Said]:
            params = [self._params(s.max_new_tokens, seed_for(stream, s.seed, *when, i)) for i in own]
            groups = self.engine.generate([prompts[i] for i in own], params, n=n)
            samples = [
                Sample(items[i], first_group + i, prompts[i], completion, "")
                for i, group in zip(own, groups, strict=True)
                for completion in group
            ]
            if self.environment is not None or s.stop_repeats_after:
                self._go_on(samples, when, stream, own.start * n)
            return [(x.completion, x.mask, x.fault) for x in samples]

        said = enumerate(self.world.spread(len(items), work))
        return [
            Sample(items[i], first_group + i, prompts[i], c, self.dialect.text(c), mask=mask, fault=fault)
            for i, (c, mask, fault) in ((place // n, told) for place, told in said)
        ]

    def usable(self, items: Sequence[Any]) -> list[Any]:
        """Items whose prompt has tokens and leaves room to answer. on_fault=stop: DataError for the first other one."""
        window = self.engine.model.config.max_position_embeddings
        good = []
        for item in items:
            length = len(self.dialect.encode(item))
            if 0 < length < window:
                good.append(item)
            elif self.settings.on_fault == "stop":
                what = f"has {length} tokens, but the model's window is {window}" if length else "is empty"
                raise DataError(
                    f"the prompt of {item_key(item)[:80]} {what}",
                    hint="mend the data, or set on_fault=drop to leave such prompts out",
                )
        return good

    def _params(self, budget: int, seed: int) -> SamplingParams:
        s, stops = self.settings, self.dialect.stop_token_ids
        if self.environment is not None:
            stops = (*stops, *self.environment.stop_token_ids)
        budget = min(budget, s.stop_repeats_after or budget)
        return SamplingParams(
            max_new_tokens=budget, temperature=s.temperature, top_p=s.top_p, seed=seed, stop_token_ids=stops
        )

    def _go_on(self, samples: list[Sample], when: tuple[int, int], stream: str, first: int) -> None:
        """Further turns, or slices of long completions, until nobody has anything to add. `first`: the first sample's
        place among those of all processes."""
        replies: list[Reply | None] = [self.environment.begin(x.item) if self.environment else None for x in samples]
        said = [0] * len(samples)  # tokens before the current turn
        turns = [1] * len(samples)
        active = list(range(len(samples)))
        number = 0
        while active := [i for i in active if self._wants_more(samples[i], replies[i], said, turns, i)]:
            number += 1
            prompts = [samples[i].prompt_ids + samples[i].completion.token_ids for i in active]
            budgets = [self.settings.max_new_tokens - samples[i].length for i in active]
            seeds = [seed_for(stream, self.settings.seed, *when, "turn", number, first + i) for i in active]
            params = [self._params(*both) for both in zip(budgets, seeds, strict=True)]
            for i, (more,) in zip(active, self.engine.generate(prompts, params), strict=True):
                _extend(samples[i], more.token_ids, more.logprobs, True, more.finish_reason)

    def _wants_more(self, sample: Sample, reply: Reply | None, said: list[int], turns: list[int], i: int) -> bool:
        """Is this episode to be continued? Where the model's turn is over, the environment's answer is added first."""
        s, window = self.settings, self.engine.model.config.max_position_embeddings
        room = min(s.max_new_tokens - sample.length, window - len(sample.prompt_ids) - sample.length)
        if sample.truncated:  # the end of a slice, or of everything
            return s.stop_repeats_after is not None and room > 0 and not goes_in_circles(sample.completion.token_ids)
        if reply is None:
            return False
        answer = self._answer(sample, reply, said[i])
        if answer is None:
            return False
        if turns[i] >= s.max_turns or len(answer) >= room:
            _extend(sample, [], [], False, "length")  # no room to go on: cut off, which is not an answer
            return False
        _extend(sample, answer, [0.0] * len(answer), False, "stop")
        said[i], turns[i] = sample.length, turns[i] + 1
        return True

    def _answer(self, sample: Sample, reply: Reply, start: int) -> list[int] | None:
        try:
            return reply(self.dialect.decode(sample.completion.token_ids[start:]))
        except Exception as error:  # a user's code may raise anything
            sample.fault = f"environment: {type(error).__name__}: {error}"
            if self.settings.on_fault == "stop":
                raise DoranError(
                    f"the environment failed for {item_key(sample.item)[:80]}: {type(error).__name__}: {error}",
                    hint="mend the environment, or set on_fault=drop to leave such episodes out",
                ) from error
            return None


def _extend(sample: Sample, ids: list[int], logprobs: list[float], own: bool, finish_reason: Any) -> None:
    before = sample.completion
    if not own or sample.mask is not None:
        sample.mask = [*(sample.mask or [True] * len(before.token_ids)), *[own] * len(ids)]
    sample.completion = Completion([*before.token_ids, *ids], [*before.logprobs, *logprobs], finish_reason)


def goes_in_circles(ids: Sequence[int]) -> bool:
    """Do the ids end with four or more copies, 48 tokens or more together, of one block of at most 48?"""
    for period in range(1, LONGEST_PERIOD + 1):
        span = max(FEWEST_COPIES * period, SHORTEST_CIRCLE)
        if len(ids) >= span and all(ids[-k] == ids[-k - period] for k in range(1, span - period + 1)):
            return True
    return False
