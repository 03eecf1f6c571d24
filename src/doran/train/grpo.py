"""GRPO: sample groups, score them, push the policy towards what beat its group (DeepSeekMath; R1 s2.2). With switches.

Defaults are what small models do best with: no KL (no reference model held), token-level loss and clip-higher (DAPO),
groups without variance dropped, rollouts in bfloat16 with their gap to the trainer weighted out (TIS). The paper's own
GRPO is aggregation="sequence", clip_high=0.2, beta=0.04, drop_zero_variance=false, tis_cap=null; Dr.GRPO is
aggregation="constant", scale_rewards="none".
Not here: a value model, a reward model, asynchronous rollouts.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, field_validator

from doran.base.config import StrictModel
from doran.base.errors import ConfigError, suggest
from doran.base.runlog import MetricsWriter, Progress
from doran.engine.engine import Engine
from doran.models.decoder import Decoder
from doran.train.advantage import Scale, zero_variance
from doran.train.loop import Loop, LoopSettings, Metrics, StepFn, load_module_tensors, module_tensors
from doran.train.losses.policy import Aggregation
from doran.train.optim import build_optimizer
from doran.train.rollout import Dialect, Draw, Reward, Rollout, Sample, roll_out
from doran.train.schedule import ScheduleName
from doran.train.update import update_policy


class StopRule(StrictModel):
    """End the run early once a logged metric has been at or above a value for some steps running."""

    metric: str = Field(description="a name from metrics.jsonl, e.g. reward or rewards/accuracy/mean")
    at_least: float = Field(description="the value to reach")
    for_steps: int = Field(5, ge=1, description="how many steps in a row")

    @field_validator("metric")
    @classmethod
    def _no_clock(cls, metric: str) -> str:
        if metric.startswith("time/") or metric in ("step_time", "tokens_per_second"):
            raise ValueError("a rule on time would make two runs of one seed differ")
        return metric


class GrpoSettings(LoopSettings):
    """`doran rl`: rollout, reward shaping, objective, update."""

    steps: int = Field(100, ge=1, description="rollouts, each with its update")
    lr: float = Field(1e-4, gt=0, description="peak rate; 1e-4 suits a few million parameters, 1e-6 a few billion")
    schedule: ScheduleName = Field("constant", description="wsd, cosine or constant")
    warmup_steps: int = Field(5, ge=0, description="linear warm-up from 0")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    # rollout
    prompts_per_step: int = Field(16, ge=1, description="different prompts a step")
    group_size: int = Field(16, ge=2, description="completions of each prompt (R1: 16)")
    max_new_tokens: int = Field(256, ge=1, description="longest completion, stop token included")
    temperature: float = Field(1.0, gt=0, description="sampling temperature; logprobs are taken at the same one")
    top_p: float = Field(
        1.0, gt=0, le=1, description="nucleus sampling; below 1 the logprobs no longer describe the sampler"
    )
    max_batch: int = Field(256, ge=1, description="completions decoded together")
    rollout_bf16: bool = Field(True, description="sample with a bfloat16 copy of the weights: faster, but larger gap/*")
    # rewards and advantages
    scale_rewards: Scale = Field("group", description="divide by the std of the group, of the batch, or none (Dr.GRPO)")
    drop_zero_variance: bool = Field(
        True, description="leave groups with one and the same reward out of the update (DAPO)"
    )
    max_refills: int = Field(
        0, ge=0, description="how often to draw new prompts for dropped groups (DAPO dynamic sampling)"
    )
    overlong_cache: int = Field(
        0, ge=0, description="tokens before max_new_tokens over which a penalty fades in to -1 (DAPO); 0: none"
    )
    mask_truncated: bool = Field(
        False, description="completions cut at max_new_tokens count in the group but not in the loss"
    )
    # objective
    aggregation: Aggregation = Field("token", description="sequence (GRPO), token (DAPO) or constant (Dr.GRPO)")
    clip_low: float = Field(0.2, ge=0, description="ratio is clipped below 1 - clip_low")
    clip_high: float = Field(0.28, ge=0, description="ratio is clipped above 1 + clip_high")
    ratio: Literal["token", "sequence"] = Field(
        "token", description="importance ratio per token, or per sequence (GSPO)"
    )
    beta: float = Field(0.0, ge=0, description="weight of the k3 KL to the reference; 0 keeps no reference")
    unbiased_kl: bool = Field(False, description="multiply the KL by the ratio (DeepSeek-V3.2)")
    reference_refresh_steps: int | None = Field(
        None, ge=1, description="make the policy the reference every so many steps (R1: 400)"
    )
    tis_cap: float | None = Field(
        2.0, gt=0, description="tokens weigh min(pi_trainer / pi_rollout, tis_cap): corrects the gap of the two (TIS)"
    )
    # update
    minibatches: int = Field(1, ge=1, description="optimizer steps a rollout is split into")
    update_epochs: int = Field(1, ge=1, description="passes over a rollout")
    tokens_per_micro_batch: int = Field(16384, ge=1, description="packed tokens in memory at once")
    mtp_lambda: float = Field(
        0.0, ge=0, description="train the MTP module (alone) on the policy's completions; 0 freezes it"
    )
    router_bias_gamma: float = Field(0.0, ge=0, description="step of the router bias; 0 freezes it")
    balance_alpha: float = Field(0.0, ge=0, description="weight of the sequence-wise balance loss")
    # run
    stop_when: StopRule | None = Field(None, description="end early when a metric is high enough")
    samples_per_step: int = Field(4, ge=0, description="completions written to samples.jsonl a step")


def run_grpo(
    model: Decoder,
    dialect: Dialect,
    draw: Draw,
    rewards: Sequence[Reward],
    settings: GrpoSettings,
    out_dir: Path,
    progress: Progress | None = None,
    add_files: Callable[[Path], None] | None = None,
    watch: Callable[[], Metrics] | None = None,
    watch_every: int = 0,
) -> Path:
    """Train `model` in place and return out_dir/model. `draw(rng, n)` gives n items.

    `watch()` is called every `watch_every` steps and after the last; its numbers join the log, it must change nothing.
    """
    out_dir = Path(out_dir)
    reference = copy.deepcopy(model).requires_grad_(False) if settings.beta else None
    loop = Loop(
        model,
        build_optimizer(model, settings),
        settings,
        out_dir,
        settings.steps,
        progress,
        shown=("reward", "completions/mean_length", "entropy", "tokens_per_second"),
        add_files=add_files,
        memory={"num_tokens": 0, "stop_streak": 0},
        companions={"reference": reference} if reference is not None else {},
    )
    engine = Engine(
        model, max_batch=settings.max_batch, compute_dtype=torch.bfloat16 if settings.rollout_bf16 else None
    )
    samples_file = out_dir / "samples.jsonl"

    def start(first: int) -> StepFn:
        with MetricsWriter(samples_file) as writer:
            writer.truncate_after(first)
        return step_fn

    def step_fn(step: int) -> Metrics:
        metrics = grpo_step(loop, engine, dialect, draw, rewards, reference, samples_file, step)
        due = watch is not None and watch_every > 0 and ((step + 1) % watch_every == 0 or step + 1 == settings.steps)
        return metrics | watch() if due and watch is not None else metrics

    return loop.run(start)


def grpo_step(
    loop: Loop,
    engine: Engine,
    dialect: Dialect,
    draw: Draw,
    rewards: Sequence[Reward],
    reference: Decoder | None,
    samples_file: Path,
    step: int,
) -> Metrics:
    """Rollout, update, and the row for the log."""
    settings = loop.settings
    assert isinstance(settings, GrpoSettings)
    if (
        reference is not None
        and settings.reference_refresh_steps
        and step
        and step % settings.reference_refresh_steps == 0
    ):
        load_module_tensors(reference, module_tensors(loop.model))
    rollout = roll_out(engine, dialect, draw, rewards, settings, step)
    began = time.perf_counter()
    update = update_policy(loop.model, loop.optimizer, rollout.kept, settings, loop.lr_factor(step), reference)
    update_seconds = time.perf_counter() - began
    loop.memory["num_tokens"] += sum(len(x.prompt_ids) + x.length for x in rollout.samples)
    metrics = {
        **rollout_metrics(rollout),
        **policy_metrics(update),
        "num_tokens": loop.memory["num_tokens"],
        "time/sample": rollout.sample_seconds,
        "time/score": rollout.score_seconds,
        "time/update": update_seconds,
    }
    with MetricsWriter(samples_file) as writer:
        for sample in chosen(rollout.samples, settings.samples_per_step):
            writer.write(sample_row(step + 1, sample, dialect))
    _apply_stop_rule(loop, settings.stop_when, metrics)
    return metrics


def rollout_metrics(rollout: Rollout) -> Metrics:
    """What the rollout alone says, under TRL's names; over all completions sampled, dropped groups included."""
    lengths = [x.length for x in rollout.samples]
    parts = {name: [x.rewards[name] for x in rollout.samples] for name in rollout.samples[0].rewards}
    return {
        "reward": float(rollout.rewards_PG.mean()),
        "reward_std": float(rollout.rewards_PG.std(1).mean()),
        **{f"rewards/{name}/mean": sum(values) / len(values) for name, values in parts.items()},
        "frac_reward_zero_std": float(zero_variance(rollout.rewards_PG).float().mean()),
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": sum(x.truncated for x in rollout.samples) / len(lengths),
        "tokens": sum(lengths),
        "kept_groups": len({x.group for x in rollout.kept}),
    }


def policy_metrics(update: Metrics) -> Metrics:
    """The update's metrics under TRL's names. A step without an update (no group had variance) has zeros."""
    names = {
        "clip_low": "clip_ratio/low_mean",
        "clip_high": "clip_ratio/high_mean",
        "clip_region": "clip_ratio/region_mean",
    }
    always = ("kl", "entropy", "loss", "grad_norm", *names.values(), "gap/mean", "gap/max", "gap/kl")
    return dict.fromkeys(always, 0.0) | {names.get(name, name): value for name, value in update.items()}


def chosen(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Some completions for a person to read: the first of evenly spread groups, best and worst in turn."""
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    spread = list(groups.values())[:: max(1, len(groups) // max(count, 1))][:count]
    return [(max if i % 2 == 0 else min)(group, key=lambda x: x.reward) for i, group in enumerate(spread)]


def sample_row(step: int, sample: Sample, dialect: Dialect) -> Metrics:
    """One line of samples.jsonl."""
    return {
        "step": step,
        "prompt": dialect.decode(sample.prompt_ids),
        "completion": sample.text,
        "finish_reason": sample.completion.finish_reason,
        "length": sample.length,
        "reward": sample.reward,
        "rewards": sample.rewards,
        "advantage": sample.advantage,
    }


def _apply_stop_rule(loop: Loop, rule: StopRule | None, metrics: Metrics) -> None:
    if rule is None:
        return
    if rule.metric not in metrics:
        raise ConfigError(f"stop_when.metric: no metric '{rule.metric}'", hint=suggest(rule.metric, metrics))
    reached = float(metrics[rule.metric]) >= rule.at_least
    loop.memory["stop_streak"] = loop.memory["stop_streak"] + 1 if reached else 0
    loop.stop = loop.memory["stop_streak"] >= rule.for_steps
