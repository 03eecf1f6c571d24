"""How far one model's predictions are from another's on the same tokens: what quantising or converting has cost.

Not a score of either: tasks are evals/run.py. N tokens, V vocab_size; logarithms are natural.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from doran.layers.attention import PackedAttend
from doran.models.decoder import Decoder

WINDOW = 256  # tokens of held-out text read together


@dataclass(frozen=True)
class Damage:
    """Over `tokens` predictions: KL(source || other) in nats a token, mean and 99th percentile; how often both like the
    same token best; each one's perplexity on the text; the largest difference of two logits (each row centred)."""

    tokens: int
    kl: float
    kl_p99: float
    top1: float
    perplexity_source: float
    perplexity: float
    logit_difference: float

    def to_dict(self) -> dict[str, float]:
        """Plain data for JSON."""
        return asdict(self)


@torch.no_grad()
def logits_of(model: Decoder, sequence: Sequence[int]) -> Tensor:
    """(T, V) fp32 of one sequence, without a cache."""
    attend = PackedAttend([0, len(sequence)])
    return model.logits(model(torch.tensor(sequence), torch.arange(len(sequence)), attend)).float()


def damage(
    source: Decoder, other: Decoder, sequences: Iterable[Sequence[int]], on_step: Callable[[], None] = lambda: None
) -> Damage:
    """Compare two models of one vocabulary; each sequence has two tokens or more."""
    kl, same, worst = [], [], 0.0
    losses: tuple[list[Tensor], list[Tensor]] = ([], [])
    for sequence in sequences:
        target_N = torch.tensor(sequence[1:])
        both = [logits_of(model, sequence)[:-1] for model in (source, other)]
        p, q = (x.log_softmax(-1) for x in both)
        kl.append((p.exp() * (p - q)).sum(-1).clamp_min(0))
        same.append(p.argmax(-1) == q.argmax(-1))
        centred = [x - x.mean(-1, keepdim=True) for x in both]
        worst = max(worst, float((centred[0] - centred[1]).abs().max()))
        for kept, x in zip(losses, (p, q), strict=True):
            kept.append(-x.gather(1, target_N[:, None])[:, 0])
        on_step()
    kl_N, (before, after) = torch.cat(kl), [math.exp(min(700.0, float(torch.cat(x).mean()))) for x in losses]
    return Damage(
        len(kl_N), float(kl_N.mean()), float(kl_N.quantile(0.99)) if len(kl_N) < 1 << 24 else float(kl_N.max()),
        float(torch.cat(same).float().mean()), before, after, worst,
    )  # fmt: skip


def windows(ids: Sequence[int], most: int, length: int = WINDOW) -> list[list[int]]:
    """At most `most` tokens of a long text as windows of `length`, spread evenly over it; all of a short one."""
    cuts = [list(ids[i : i + length]) for i in range(0, len(ids), length)]
    cuts = [c for c in cuts if len(c) > 1]
    wanted = max(1, most // length)
    step = max(1, len(cuts) // wanted)
    return cuts[::step][:wanted]
