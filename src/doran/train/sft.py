"""Supervised fine-tuning on (ids, loss_mask) samples: cold start, rejection-sampled data, distillation (R1 s2.3, s2.4).

The order of samples is a function of (seed, epoch), so the step number says everything about the data position.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field

from doran.base.config import later
from doran.base.errors import DataError
from doran.base.rng import python_rng
from doran.base.runlog import Progress
from doran.data.packing import Pack
from doran.models.decoder import Decoder
from doran.parallel.world import SOLO, World
from doran.train.batch import ROUND_TOKENS, pack
from doran.train.loop import Loop, StepFn, divided
from doran.train.optim import build_optimizer
from doran.train.pretrain import LmSettings, lm_step_fn
from doran.train.rehearsal import rehearse_lm
from doran.train.schedule import ScheduleName

Sample = tuple[Sequence[int], Sequence[bool]]
"""(ids, loss_mask) of one conversation, equally long; loss_mask[i]: is ids[i] to be learned?"""


class SftSettings(LmSettings):
    """`doran sft`: R1's own SFT was two epochs with a cosine to a tenth of the peak (R1 s3.5)."""

    epochs: int = Field(2, ge=1, description="passes over the samples")
    tokens_per_batch: int = Field(8192, ge=1, description="packed tokens an update")
    max_length: int | None = Field(None, ge=2, description="longest sample, in tokens; a longer one is an error")
    schedule: ScheduleName = Field("cosine", description="wsd, cosine or constant")
    min_lr_factor: float = Field(0.1, ge=0, le=1, description="share of the peak rate at the end")
    rehearse: bool = later(
        False, description="before step 1 try the largest batch, so that too little memory shows at once"
    )


def run_sft(
    model: Decoder,
    samples: Sequence[Sample],
    settings: SftSettings,
    out_dir: Path,
    progress: Progress | None = None,
    add_files: Callable[[Path], None] | None = None,
    world: World = SOLO,
) -> Path:
    """Fine-tune `model` in place and return out_dir/model. DataError names the first sample that cannot be used."""
    check_samples(samples, settings.max_length)
    plan = batch_plan([len(ids) - 1 for ids, _ in samples], settings)
    if progress is not None:
        progress.total_steps = len(plan)
    model = divided(model, world)
    loop = Loop(
        model,
        build_optimizer(model, settings, world),
        settings,
        Path(out_dir),
        len(plan),
        progress,
        shown=("loss", "lr", "tokens_per_second"),
        add_files=add_files,
        identity={"samples": digest(samples)},
        world=world,
    )
    device = next(model.parameters()).device

    def take(step: int) -> list[Pack]:
        return [pack([samples[i] for i in plan[step]], device, ROUND_TOKENS)]

    def start(first: int) -> StepFn:
        if first == 0 and settings.rehearse and world.size == 1:
            rehearse_lm(loop.model, samples, plan, settings)
        return lm_step_fn(loop, take)

    return loop.run(start)


def batch_plan(lengths: Sequence[int], settings: SftSettings) -> list[list[int]]:
    """Sample indices of every update of all epochs: shuffled, filled to tokens_per_batch, every sample once an epoch.

    Inside an update the samples are sorted by length: it changes nothing but the attention's padding.
    """
    plan: list[list[int]] = []
    for epoch in range(settings.epochs):
        order = list(range(len(lengths)))
        python_rng("sft", settings.seed, epoch).shuffle(order)
        room = 0
        for place, i in enumerate(order):
            if place == 0 or lengths[i] > room:
                plan.append([])
                room = settings.tokens_per_batch
            plan[-1].append(i)
            room -= lengths[i]
    return [sorted(batch, key=lambda i: (lengths[i], i)) for batch in plan]


def check_samples(samples: Sequence[Sample], max_length: int | None) -> None:
    """DataError unless every sample can teach something."""
    if not samples:
        raise DataError("there is no sample to train on", hint="check the file and the filters")
    for number, (ids, mask) in enumerate(samples, start=1):
        if len(ids) != len(mask):
            raise DataError(f"sample {number}: {len(ids)} ids but {len(mask)} loss-mask entries")
        if len(ids) < 2 or not any(mask[1:]):
            raise DataError(
                f"sample {number} has no token to learn", hint="drop it, or mark its answer in the loss mask"
            )
        if max_length is not None and len(ids) > max_length:
            raise DataError(
                f"sample {number} has {len(ids)} tokens, max_length is {max_length}",
                hint="shorten or drop it, or raise max_length",
            )


def digest(samples: Sequence[Sample]) -> str:
    """A hash of all ids and masks: a run goes on only with the samples it began with."""
    hasher = hashlib.sha256()
    for ids, mask in samples:
        hasher.update(array("q", ids).tobytes() + bytes(map(bool, mask)) + b"|")
    return hasher.hexdigest()[:16]
