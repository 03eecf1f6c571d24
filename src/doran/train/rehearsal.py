"""The largest batch there can be, tried before the first step: too little memory shows at once, not after a day.

One forward and backward pass without an update: no weight, no counter and no random stream changes, so a run with a
rehearsal ends with the same bits as one without. What to do when it fails: fitting.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from doran.base.rng import python_rng
from doran.engine.request import Completion
from doran.layers.moe import RouterStats
from doran.models.decoder import Decoder
from doran.train.batch import ROUND_TOKENS, pack
from doran.train.grpo_settings import GrpoSettings
from doran.train.pretrain import LmSettings, lm_loss
from doran.train.samples import Sample
from doran.train.update import Means, accumulate, micro_batches


def rehearse_lm(
    model: Decoder, samples: Sequence[tuple[Sequence[int], Sequence[bool]]], plan: Sequence[list[int]],
    settings: LmSettings,
) -> None:  # fmt: skip
    """One forward and backward pass of next-token training on the plan's largest batch; its gradients are dropped."""
    batch = largest(plan, [len(ids) - 1 for ids, _ in samples])
    packed = pack([samples[i] for i in batch], next(model.parameters()).device, ROUND_TOKENS)
    with torch.autocast(packed.tokens_T.device.type, dtype=torch.bfloat16, enabled=settings.bf16):
        objective, _ = lm_loss(model, packed, RouterStats(balance=bool(settings.balance_alpha)), settings, 1, 1)
    objective.backward()
    _drop_gradients(model)


def rehearse_grpo(model: Decoder, prompts: Sequence[Sequence[int]], s: GrpoSettings) -> None:
    """One forward and backward pass of the fullest micro-batch: made-up completions of the greatest length."""
    rng, config = python_rng("rehearsal"), model.config
    usable = [list(ids) for ids in prompts if 0 < len(ids) < config.max_position_embeddings]
    if not usable:
        return  # the first step will say so
    prompt = max(usable, key=len)
    length = min(s.max_new_tokens, config.max_position_embeddings - len(prompt))
    count = min(s.prompts_per_step * s.group_size, max(1, s.tokens_per_micro_batch // (len(prompt) + length - 1)))
    samples = []
    for _ in range(count):
        ids = [rng.randrange(config.vocab_size) for _ in range(length)]
        samples.append(Sample(None, 0, prompt, Completion(ids, [-1.0] * length, "length"), "", advantage=1.0))
    micro = micro_batches(samples, s, next(model.parameters()).device)[0]
    accumulate(model, micro, s, RouterStats(balance=bool(s.balance_alpha)), 1, Means(), first=True)
    _drop_gradients(model)


def largest(plan: Sequence[list[int]], lengths: Sequence[int]) -> list[int]:
    """The batch with the most tokens; of equal ones that with the longest sample."""
    key: Callable[[Sequence[int]], tuple[int, int]] = lambda batch: (  # noqa: E731
        sum(lengths[i] for i in batch), max(lengths[i] for i in batch)
    )  # fmt: skip
    return max(plan, key=key)


def _drop_gradients(model: Decoder) -> None:
    for p in model.parameters():
        p.grad = None
