"""Rollouts sampled one step ahead, while the policy is updated: one step off-policy, and still deterministic.

The sampler works on a copy of the weights taken before the update, in a thread of its own. What it sampled waits in the
checkpoint (tokens and logprobs; the prompts are drawn again by name), so a continued run learns from the same rollouts.
The weight min(pi_trainer / pi_rollout, tis_cap) corrects for the step between; AReaL (2505.24298) calls this decoupled.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from typing import Any

import torch

from doran.engine.engine import Engine
from doran.engine.request import Completion
from doran.models.decoder import Decoder
from doran.train.loop import flushed_denormals, load_module_tensors, module_tensors
from doran.train.rollout import Source
from doran.train.samples import Sample


class Ahead:
    """At most one batch of groups on its way. `memory`: where the batch that waits is kept for the checkpoint."""

    def __init__(self, model: Decoder, source: Source, memory: dict[str, Any]) -> None:
        s = source.sampler.settings
        self.model, self.memory = model, memory
        self.behaviour = copy.deepcopy(model).requires_grad_(False)
        dtype = torch.bfloat16 if s.rollout_bf16 else None
        engine = Engine(self.behaviour, max_batch=s.max_batch, compute_dtype=dtype)
        self.source = replace(source, sampler=replace(source.sampler, engine=engine))
        self.thread: threading.Thread | None = None
        self.found: list[Sample] = []
        self.error: BaseException | None = None

    def take(self, step: int) -> list[Sample] | None:
        """The samples of `step`, None if nothing was sampled ahead for it (the first step)."""
        if self.memory.get("step") != step:
            return None
        if not self.found:  # a continued run: the prompts by name, the completions from the checkpoint
            self.found = self._restored(step)
        samples, self.found = self.found, []
        self.memory.clear()
        return samples

    def start(self, step: int) -> None:
        """Begin to sample `step` with the weights as they are now."""
        load_module_tensors(self.behaviour, module_tensors(self.model))
        items, _ = self.source.items(step, 0, self.source.sampler.settings.prompts_per_step)
        threads = torch.get_num_threads()

        def work() -> None:
            torch.set_num_threads(threads)
            try:
                with flushed_denormals():
                    self.found = self.source.sampler.groups(items, (step, 0))
            except BaseException as error:  # handed over by `finish`
                self.error = error

        self.thread = threading.Thread(target=work, name="rollouts ahead", daemon=True)
        self.thread.start()

    def finish(self, step: int) -> None:
        """Wait for what `start` began and keep it for the checkpoint. Raises what the sampler raised."""
        assert self.thread is not None
        self.thread.join()
        self.thread = None
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        rows = [[x.completion.token_ids, x.completion.logprobs, x.completion.finish_reason, x.mask] for x in self.found]
        self.memory.update(step=step, rows=rows)

    def _restored(self, step: int) -> list[Sample]:
        s, dialect = self.source.sampler.settings, self.source.sampler.dialect
        items, _ = self.source.items(step, 0, s.prompts_per_step)
        samples = []
        for i, (ids, logprobs, reason, mask) in enumerate(self.memory["rows"]):
            item = items[i // s.group_size]
            completion = Completion(ids, logprobs, reason)
            prompt = list(dialect.encode(item))
            samples.append(Sample(item, i // s.group_size, prompt, completion, dialect.text(completion), mask=mask))
        return samples
