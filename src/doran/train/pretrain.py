"""Pretraining on packed documents: next token, the MTP module's next-but-one token, expert balance (DeepSeek-V3 s2).

`lm_step` is a plain function of (model, optimizer, batches, settings, lr_factor), to profile or compile on its own.

T tokens of a pack, D hidden_size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from doran.arch.config import ModelConfig
from doran.arch.count import flops_per_token
from doran.base.device import matmul_peak
from doran.base.errors import DataError
from doran.base.runlog import Progress
from doran.data.packing import Pack
from doran.layers.attention import PackedAttend
from doran.layers.moe import RouterStats, update_router_bias
from doran.models.decoder import Decoder
from doran.parallel.world import SOLO, World
from doran.train.batch import ROUND_TOKENS, own_part
from doran.train.loop import Loop, LoopSettings, Metrics, StepFn, divided
from doran.train.losses import IGNORE, linear_cross_entropy, mtp_targets
from doran.train.optim import Optimizer, build_optimizer


class LmSettings(LoopSettings):
    """Settings of next-token training, shared by pretraining and SFT."""

    mtp_lambda: float = Field(
        0.3, ge=0, description="weight of the MTP loss (V3: 0.3, later 0.1); 0 leaves the module untrained"
    )
    mtp_share: float = Field(
        1.0, gt=0, le=1, description="share of the documents that the MTP module trains on: 0.25 takes every fourth"
    )
    router_bias_gamma: float = Field(1e-3, ge=0, description="step of the aux-loss-free balance bias (V3 s2.1.2)")
    balance_alpha: float = Field(1e-4, ge=0, description="weight of the sequence-wise balance loss (V3 eq 17)")
    z_loss: float = Field(0.0, ge=0, description="weight of logsumexp^2, keeps logits small")


class PretrainSettings(LmSettings):
    """`doran pretrain`: how long, how large a batch, how fast."""

    steps: int = Field(1000, ge=1, description="optimizer updates")
    tokens_per_batch: int = Field(8192, ge=1, description="packed tokens a micro-batch")
    accumulate: int = Field(1, ge=1, description="micro-batches an update")


def run_pretrain(
    model: Decoder,
    batches: Callable[[int], Iterator[Pack]],
    settings: PretrainSettings,
    out_dir: Path,
    progress: Progress | None = None,
    add_files: Callable[[Path], None] | None = None,
    identity: Mapping[str, Any] | None = None,
    world: World = SOLO,
) -> Path:
    """Train `model` in place and return out_dir/model. `batches(n)` yields the micro-batches from number n on.

    They must be the same at every call: `lambda n: Packer(stream(), settings.tokens_per_batch).skip(n)`. `identity`:
    what else must be the same to continue, such as {"data": corpus.digest}. In a `world` of several processes all give
    the same packs, and each trains on its share of every one.
    """
    model = divided(model, world)
    loop = Loop(
        model,
        build_optimizer(model, settings, world),
        settings,
        Path(out_dir),
        settings.steps,
        progress,
        shown=("loss", "mtp_loss", "tokens_per_second", "mfu"),
        add_files=add_files,
        identity=dict(identity or {}),
        world=world,
    )

    def start(first: int) -> StepFn:
        stream = batches(first * settings.accumulate)
        return lm_step_fn(loop, lambda step: [_next(stream, step) for _ in range(settings.accumulate)])

    return loop.run(start)


def lm_step_fn(loop: Loop, take: Callable[[int], Sequence[Pack]]) -> StepFn:
    """A loop step that trains on the packs `take(step)`."""
    settings = loop.settings
    assert isinstance(settings, LmSettings)
    peak = matmul_peak("bfloat16" if settings.bf16 else "float32")
    flops = training_flops(loop.model.config, with_mtp=loop.model.has_mtp and settings.mtp_lambda > 0)

    def step_fn(step: int) -> Metrics:
        packs = take(step)
        began = time.perf_counter()
        metrics = lm_step(loop.model, loop.optimizer, packs, settings, loop.lr_factor(step), loop.world)
        needed = flops(mean_context(packs)) * metrics["tokens"] / loop.world.size
        return metrics | {"mfu": needed / peak / (time.perf_counter() - began)}

    return step_fn


def training_flops(config: ModelConfig, with_mtp: bool) -> Callable[[float], float]:
    """Context -> FLOPs to train on one token. Backward costs two forwards; MTP is a layer, eh_proj and a head."""

    def forward(context: int) -> int:
        main = flops_per_token(config, context)
        if not with_mtp:
            return main
        deeper = flops_per_token(replace(config, num_hidden_layers=config.num_hidden_layers + 1), context)
        return deeper + 2 * config.hidden_size * (config.vocab_size + 2 * config.hidden_size)

    fixed, slope = forward(0), forward(1) - forward(0)
    return lambda context: 3 * (fixed + slope * context)


def lm_step(
    model: Decoder,
    optimizer: Optimizer,
    packs: Sequence[Pack],
    settings: LmSettings,
    lr_factor: float,
    world: World = SOLO,
) -> Metrics:
    """One update on `packs`, whose losses share one mean over all their target tokens, wherever they are computed."""
    total = sum(int((p.targets_T != IGNORE).sum()) for p in packs)
    metrics: Metrics = {"tokens": sum(p.tokens_T.numel() for p in packs), "loss_tokens": total}
    # Loads add up over the packs; balance losses are each pack's own.
    stats = RouterStats(balance=bool(settings.balance_alpha))
    seen: Metrics = {}
    for whole in packs:
        pack, share = own_part(whole, world, round(1 / settings.mtp_share))
        num_packs = len(packs) / share if share else math.inf
        autocast = torch.autocast(pack.tokens_T.device.type, dtype=torch.bfloat16, enabled=settings.bf16)
        with autocast, stats.counting(share > 0):
            objective, parts = lm_loss(model, pack, stats, settings, total, num_packs)
        objective.backward()
        for name, value in parts.items():
            seen[name] = seen.get(name, 0.0) + value.detach()
    metrics |= world.sums(seen)
    metrics["grad_norm"] = optimizer.step(lr_factor)
    world.add_up(stats.loads.values())
    if stats.loads:
        metrics["max_violation"] = max_violation(stats)
        if settings.router_bias_gamma:
            update_router_bias(model, stats, settings.router_bias_gamma)
    return metrics


def lm_loss(
    model: Decoder, pack: Pack, stats: RouterStats, settings: LmSettings, total: int, num_packs: float
) -> tuple[Tensor, Metrics]:
    """(what to minimise, {loss, mtp_loss, balance_loss}) of one pack; `total`: targets in all `num_packs` packs.

    Of a pack that is divided this is one process's part, and the parts add up; `num_packs` is then larger, since this
    part's mean over sequences (the balance loss) counts for its share of them.
    """
    attend = PackedAttend(pack.cu_seqlens)
    h_TD = model(pack.tokens_T, pack.positions_T, attend, stats)
    objective, seen = linear_cross_entropy(
        h_TD, head_weight(model), pack.targets_T, denominator=total, z_loss=settings.z_loss
    )
    parts: Metrics = {"loss": seen["nll"] / max(total, 1)}
    if settings.mtp_lambda and model.has_mtp:
        rows_T, part = every(pack, round(1 / settings.mtp_share))
        next_tokens_T, mtp_targets_T = mtp_targets(part.tokens_T, part.targets_T, part.cu_seqlens)
        stats.cu_seqlens = part.cu_seqlens
        h_TD = model.mtp(h_TD[rows_T], next_tokens_T, part.positions_T, PackedAttend(part.cu_seqlens), stats)
        mtp, _ = linear_cross_entropy(h_TD, head_weight(model), mtp_targets_T, denominator=total * settings.mtp_share)
        parts["mtp_loss"] = mtp
        objective = objective + settings.mtp_lambda * mtp
    if settings.balance_alpha and stats.balance_losses:
        parts["balance_loss"] = stats.balance_loss / num_packs
        objective = objective + settings.balance_alpha * parts["balance_loss"]
    return objective, parts


def every(pack: Pack, stride: int) -> tuple[Tensor | slice, Pack]:
    """(rows of the pack, the pack they make) of documents 0, stride, 2 stride, ..."""
    if stride == 1:
        return slice(None), pack
    sizes = pack.cu_seqlens.diff()
    document_T = torch.arange(len(sizes)).repeat_interleave(sizes)
    rows_T = (document_T % stride == 0).nonzero().squeeze(1)
    cu_seqlens = torch.cat([sizes.new_zeros(1), sizes[::stride].cumsum(0)]).to(pack.cu_seqlens.dtype)
    filler = -len(rows_T) % ROUND_TOKENS
    if filler:  # repeats of row 0 as one more document, without targets
        rows_T = torch.cat([rows_T, rows_T.new_zeros(filler)])
        cu_seqlens = torch.cat([cu_seqlens, cu_seqlens[-1:] + filler])
    targets_T = pack.targets_T[rows_T]
    targets_T[len(rows_T) - filler :] = IGNORE
    return rows_T, Pack(pack.tokens_T[rows_T], pack.positions_T[rows_T], targets_T, cu_seqlens)


def head_weight(model: Decoder) -> Tensor:
    """The (V, D) matrix behind `model.logits`, the embedding where the two are tied."""
    return model.model.embed_tokens.weight if model.lm_head is None else model.lm_head.weight


def max_violation(stats: RouterStats) -> Tensor:
    """Load of the busiest expert over the mean, minus 1, worst layer (MaxVio of 2408.15664); 0 is perfect balance."""
    return torch.stack([counts_E.max() / counts_E.float().mean() - 1 for counts_E in stats.loads.values()]).max()


def mean_context(packs: Sequence[Pack]) -> float:
    """Mean tokens a query attends to, for counting FLOPs: half its document and itself, weighted by length."""
    lengths = torch.cat([p.cu_seqlens.diff() for p in packs]).double()
    return float((lengths * (lengths + 1) / 2).sum() / lengths.sum())


def _next(stream: Iterator[Pack], step: int) -> Pack:
    try:
        return next(stream)
    except StopIteration:
        raise DataError(f"the data ran out in step {step + 1}", hint="lower steps or give more data") from None
