"""The policy update of one rollout: packs by tokens, logprobs, the GRPO loss, one or several optimizer steps.

N completion tokens of a pack, in the order of its samples. Plain functions, to profile or compile on their own.
Several processes get the same samples and pack a share each; weights are those of the whole step, so gradients add up.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from doran.base.batches import by_tokens
from doran.data.packing import Pack
from doran.layers.attention import PackedAttend
from doran.layers.moe import RouterStats, update_router_bias
from doran.models.decoder import Decoder
from doran.parallel.world import SOLO, World
from doran.train.batch import ROUND_TOKENS, idle_pack, pack
from doran.train.grpo_settings import GrpoSettings
from doran.train.loop import Metrics
from doran.train.losses import (
    IGNORE,
    aggregation_weights,
    entropies,
    importance_weights,
    k3,
    linear_cross_entropy,
    mtp_targets,
    policy_loss,
    token_logprobs,
)
from doran.train.optim import Optimizer
from doran.train.pretrain import head_weight, max_violation
from doran.train.samples import Sample


@dataclass
class MicroBatch:
    """Some samples packed, and what the loss needs of each completion token."""

    batch: Pack
    samples: Sequence[Sample]  # those packed, in order
    rollout_logprobs_N: Tensor
    advantages_N: Tensor
    weights_N: Tensor
    sequence_N: Tensor
    fresh_N: Tensor | None = None  # False for replayed tokens, whose gap is age, not rounding; None: all are fresh
    old_logprobs_N: Tensor | None = None
    exact_logprobs_N: Tensor | None = None  # the sampled tokens scored by the trainer's forward, before any update
    ref_logprobs_N: Tensor | None = None


def update_policy(
    model: Decoder,
    optimizer: Optimizer,
    samples: Sequence[Sample],
    s: GrpoSettings,
    lr_factor: float,
    reference: Decoder | None = None,
    entropy_coef: float | None = None,
    world: World = SOLO,
) -> Metrics:
    """Train on `samples` (whole groups). Metrics are token-weighted means. No sample that counts, no update.

    `entropy_coef`: what the adaptive coefficient stands at, in place of the setting.
    """
    if entropy_coef is not None:
        s = s.model_copy(update={"entropy_coef": entropy_coef})
    samples = [x for x in samples if not (s.mask_truncated and x.truncated) and x.num_learned]
    device = next(model.parameters()).device
    plan = [micro_batches(chunk, s, device, world) for chunk in split_groups(samples, s.minibatches)]
    micros = [micro for minibatch in plan for micro in minibatch]
    if not micros:
        return {"loss": 0.0, "grad_norm": 0.0, "updates": 0}
    for micro in micros:
        if len(plan) * s.update_epochs > 1:
            micro.old_logprobs_N = frozen_logprobs(model, micro.batch, s)
        if reference is not None:
            micro.ref_logprobs_N = frozen_logprobs(reference, micro.batch, s)
    means = Means()
    if s.exact_logprobs:
        began = time.perf_counter()
        for micro in micros:
            score_exactly(model, micro, s)
        tell_exact(samples, world)
        means.add({"time/exact": time.perf_counter() - began}, 1)
    for epoch in range(s.update_epochs):
        for number, minibatch in enumerate(plan):
            stats = RouterStats(balance=bool(s.balance_alpha))
            for micro in minibatch:
                first = epoch == 0 and number == 0
                accumulate(model, micro, s, stats, len(minibatch) * world.size, means, first)
            means.add({"grad_norm": optimizer.step(lr_factor)}, 1)
            world.add_up(stats.loads.values())
            if stats.loads:
                means.add({"max_violation": max_violation(stats)}, 1)
                if s.router_bias_gamma:
                    update_router_bias(model, stats, s.router_bias_gamma)
    updates = len(plan) * s.update_epochs
    return means.result(updates, world) | {"updates": updates}


def accumulate(
    model: Decoder,
    micro: MicroBatch,
    s: GrpoSettings,
    stats: RouterStats,
    num_micros: int,
    means: Means,
    first: bool,
) -> None:
    """Add one micro-batch's gradient to the parameters, and what is worth knowing to `means`.

    `num_micros`: of the optimizer step, over which losses that are means of a micro-batch are averaged.
    """
    if not micro.samples:
        return take_part(model, micro.batch, s, stats)
    attend = PackedAttend(micro.batch.cu_seqlens)
    with torch.autocast(micro.batch.tokens_T.device.type, dtype=torch.bfloat16, enabled=s.bf16):
        h_TD, logprobs_N, entropy_N = completion_logprobs(model, micro.batch, s.temperature, attend, stats)
        old_N = logprobs_N.detach() if micro.old_logprobs_N is None else micro.old_logprobs_N
        importance_N = None if s.tis_cap is None else importance_weights(
            old_N, micro.rollout_logprobs_N, micro.sequence_N,
            cap=s.tis_cap, level=s.importance_level, cut=s.importance_cut, floor=s.importance_floor,
        )  # fmt: skip
        loss, seen = policy_loss(
            logprobs_N, old_N, micro.advantages_N, micro.weights_N, micro.sequence_N,
            clip_low=s.clip_low, clip_high=s.clip_high, ratio=s.ratio, beta=s.beta, ref_logprobs_N=micro.ref_logprobs_N,
            unbiased_kl=s.unbiased_kl, importance_N=importance_N, objective=s.objective, ratio_cap=s.ratio_cap,
            kl_estimator=s.kl_estimator, off_policy_delta=s.off_policy_delta,
        )  # fmt: skip
        objective = loss
        if s.entropy_coef:
            objective = objective - s.entropy_coef * entropy_bonus(model, micro, h_TD, s.temperature)
        if s.balance_alpha and stats.balance_losses:
            objective = objective + s.balance_alpha / num_micros * stats.balance_loss
        mtp = mtp_loss(model, micro.batch, h_TD, attend, num_micros) if s.mtp_lambda and model.has_mtp else None
    objective.backward()
    if mtp is not None:
        backward_into_mtp(model, s.mtp_lambda * mtp)
        means.add({"mtp_loss": mtp.detach() * num_micros}, 1)
    tokens = logprobs_N.numel()
    means.loss += loss.detach()
    means.add({**seen, "entropy": entropy_N.mean()}, tokens)
    if first:  # later updates move the policy away from the rollout on purpose
        fresh_N = slice(None) if micro.fresh_N is None else micro.fresh_N
        sampled_N = micro.rollout_logprobs_N
        if micro.exact_logprobs_N is not None:
            means.gap(sampled_N[fresh_N], old_N[fresh_N], "gap/sampler_")
            sampled_N = micro.exact_logprobs_N
        means.gap(sampled_N[fresh_N], old_N[fresh_N])


def take_part(model: Decoder, batch: Pack, s: GrpoSettings, stats: RouterStats) -> None:
    """An empty share: a forward and a backward of zeros, since others may need this process's weights meanwhile."""
    with torch.autocast(batch.tokens_T.device.type, dtype=torch.bfloat16, enabled=s.bf16), stats.counting(False):
        h_TD = model(batch.tokens_T, batch.positions_T, PackedAttend(batch.cu_seqlens), stats)
        nothing = model.logits(h_TD).sum() * 0.0
    nothing.backward()


def completion_logprobs(
    model: Decoder, batch: Pack, temperature: float, attend: PackedAttend, stats: RouterStats | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(h_TD, logprobs_N, entropy_N) of the pack's target tokens at the sampling temperature."""
    h_TD = model(batch.tokens_T, batch.positions_T, attend, stats)
    rows_N = (batch.targets_T != IGNORE).nonzero().squeeze(1)
    logprobs_N, entropy_N = token_logprobs(
        h_TD.index_select(0, rows_N), head_weight(model), batch.targets_T[rows_N], temperature=temperature or 1.0
    )
    return h_TD, logprobs_N, entropy_N


def entropy_bonus(model: Decoder, micro: MicroBatch, h_TD: Tensor, temperature: float) -> Tensor:
    """Entropy of the completion tokens, averaged as the objective is, with its gradient."""
    rows_N = (micro.batch.targets_T != IGNORE).nonzero().squeeze(1)
    entropy_N = entropies(h_TD.index_select(0, rows_N), head_weight(model), temperature=temperature or 1.0)
    return (micro.weights_N * entropy_N).sum()


@torch.no_grad()
def frozen_logprobs(model: Decoder, batch: Pack, s: GrpoSettings) -> Tensor:
    """Logprobs as data: of the policy before the update, or of the reference."""
    with torch.autocast(batch.tokens_T.device.type, dtype=torch.bfloat16, enabled=s.bf16):
        return completion_logprobs(model, batch, s.temperature, PackedAttend(batch.cu_seqlens))[1]


def score_exactly(model: Decoder, micro: MicroBatch, s: GrpoSettings) -> None:
    """Note the trainer's logprobs of the sampled tokens: same forward, same packs, so the same bits as in the update.

    Only what is reported changes. Importance weights go on using the logprobs that the tokens were drawn with.
    """
    old_N = micro.old_logprobs_N
    micro.exact_logprobs_N = frozen_logprobs(model, micro.batch, s) if old_N is None else old_N
    parts = micro.exact_logprobs_N.split([x.num_learned for x in micro.samples])
    for sample, part in zip(micro.samples, parts, strict=True):
        sample.exact_logprobs = part.tolist()


def tell_exact(samples: Sequence[Sample], world: World) -> None:
    """Every process learns the logprobs that the others have scored."""
    if world.size > 1:
        for found in world.gather({i: x.exact_logprobs for i, x in enumerate(samples) if x.exact_logprobs}):
            for i, logprobs in found.items():
                samples[i].exact_logprobs = logprobs


def mtp_loss(model: Decoder, batch: Pack, h_TD: Tensor, attend: PackedAttend, num_micros: int) -> Tensor:
    """How well the MTP module drafts this policy's own completions; the main model is not to learn from it."""
    next_tokens_T, targets_T = mtp_targets(batch.tokens_T, batch.targets_T, batch.cu_seqlens)
    h_TD = model.mtp(h_TD.detach(), next_tokens_T, batch.positions_T, attend)
    return linear_cross_entropy(h_TD, head_weight(model), targets_T)[0] / num_micros


def backward_into_mtp(model: Decoder, loss: Tensor) -> None:
    """Gradients for the MTP module alone: embedding and head are the policy's and must not move by imitation."""
    prefix = f"model.layers.{model.config.num_hidden_layers}."
    own = [p for name, p in model.named_parameters() if name.startswith(prefix)]
    for p, grad in zip(own, torch.autograd.grad(loss, own, allow_unused=True)):
        if grad is not None:
            p.grad = grad if p.grad is None else p.grad + grad


def split_groups(samples: Sequence[Sample], minibatches: int) -> list[list[Sample]]:
    """`minibatches` parts of nearly as many groups each, groups kept whole; fewer parts if there are fewer groups."""
    groups: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.group].append(sample)
    whole = list(groups.values())
    parts = min(minibatches, len(whole))
    return [
        [x for group in whole[i * len(whole) // parts : (i + 1) * len(whole) // parts] for x in group]
        for i in range(parts)
    ]


def micro_batches(
    samples: list[Sample], s: GrpoSettings, device: torch.device | str = "cpu", world: World = SOLO
) -> list[MicroBatch]:
    """The samples of one optimizer step in packs of at most `tokens_per_micro_batch`; weights are the whole step's.

    Of several processes each packs its own hand, as many packs as the others: empty ones make up the number.
    """
    lengths_S = torch.tensor([x.num_learned for x in samples])
    weights_S = aggregation_weights(lengths_S, s.aggregation, max_length=s.max_new_tokens)
    totals = [len(x.prompt_ids) + x.length - 1 for x in samples]
    hands = world.deal(totals) if world.size > 1 else [list(range(len(samples)))]
    packed = [by_tokens([totals[i] for i in hand], s.tokens_per_micro_batch) for hand in hands]
    own = [[hands[world.rank][j] for j in ids] for ids in packed[world.rank]]
    own += [[]] * (max(map(len, packed)) - len(own))
    return [_micro_batch([samples[i] for i in ids], weights_S[ids], device) for ids in own]


def _micro_batch(samples: list[Sample], weights_S: Tensor, device: torch.device | str) -> MicroBatch:
    lengths_S = torch.tensor([x.num_learned for x in samples], dtype=torch.long, device=device)
    per_token = lambda values_S: values_S.to(device).repeat_interleave(lengths_S)  # noqa: E731
    masked = [
        ([*x.prompt_ids, *x.completion.token_ids], [False] * len(x.prompt_ids) + (x.mask or [True] * x.length))
        for x in samples
    ]
    return MicroBatch(
        batch=pack(masked, device, ROUND_TOKENS) if samples else idle_pack(device),
        samples=samples,
        rollout_logprobs_N=torch.tensor([p for x in samples for p in x.learned_logprobs], device=device),
        advantages_N=per_token(torch.tensor([x.advantage for x in samples])),
        weights_N=per_token(weights_S),
        sequence_N=per_token(torch.arange(len(samples))),
        fresh_N=per_token(torch.tensor([x.age == 0 for x in samples])) if any(x.age for x in samples) else None,
    )


class Means:
    """Weighted means and sums under the names of the log."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = defaultdict(float)
        self.weights: dict[str, float] = defaultdict(float)
        self.loss: Tensor | float = 0.0
        self.highest: dict[str, Tensor] = {}

    def add(self, values: Metrics, weight: float) -> None:
        for name, value in values.items():
            self.sums[name] += value * weight
            self.weights[name] += weight

    def gap(self, rollout_N: Tensor, trainer_N: Tensor, name: str = "gap/") -> None:
        if not rollout_N.numel():
            return
        difference_N = (trainer_N - rollout_N).abs()
        top = f"{name}max"
        self.highest[top] = torch.maximum(self.highest.get(top, torch.zeros(())), difference_N.max())
        seen = {f"{name}mean": difference_N.mean(), f"{name}kl": k3(rollout_N, trainer_N).mean()}
        self.add(seen, rollout_N.numel())

    def result(self, updates: int, world: World = SOLO) -> Metrics:
        sums, weights = world.sums(self.sums), world.sums(self.weights)
        means = {name: total / weights[name] for name, total in sums.items()}
        loss, highest = world.sums({"loss": self.loss})["loss"], world.highest(self.highest)
        return means | {"loss": loss / updates, "gap/max": 0.0} | highest
