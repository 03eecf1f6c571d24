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

import torch

from doran.base.errors import ConfigError, suggest
from doran.base.runlog import MetricsWriter, Progress
from doran.engine.engine import Engine
from doran.models.decoder import Decoder
from doran.train.advantage import zero_variance
from doran.train.grpo_settings import GrpoSettings, StopRule
from doran.train.loop import Loop, Metrics, StepFn, load_module_tensors, module_tensors
from doran.train.optim import build_optimizer
from doran.train.rollout import Dialect, Draw, Reward, Rollout, Sample, roll_out
from doran.train.update import update_policy


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
    dtype = torch.bfloat16 if settings.rollout_bf16 else None
    engine = Engine(model, max_batch=settings.max_batch, compute_dtype=dtype)

    with MetricsWriter(out_dir / "samples.jsonl") as writer:

        def start(first: int) -> StepFn:
            writer.truncate_after(first)
            return step_fn

        def step_fn(step: int) -> Metrics:
            metrics = grpo_step(loop, engine, dialect, draw, rewards, reference, writer, step)
            if watch is not None and watch_every and ((step + 1) % watch_every == 0 or step + 1 == settings.steps):
                metrics |= watch()
            _apply_stop_rule(loop, settings.stop_when, metrics)
            return metrics

        return loop.run(start)


def grpo_step(
    loop: Loop,
    engine: Engine,
    dialect: Dialect,
    draw: Draw,
    rewards: Sequence[Reward],
    reference: Decoder | None,
    writer: MetricsWriter,
    step: int,
) -> Metrics:
    """Rollout, update, and the row for the log."""
    settings = loop.settings
    assert isinstance(settings, GrpoSettings)
    refresh = settings.reference_refresh_steps
    if reference is not None and refresh and step and step % refresh == 0:
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
    for sample in chosen(rollout.samples, settings.samples_per_step):
        writer.write(sample_row(step + 1, sample, dialect))
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
    if rule is None or (rule.metric.startswith("eval/") and rule.metric not in metrics):
        return  # eval/... comes from `watch`, which does not look every step
    if rule.metric not in metrics:
        raise ConfigError(f"stop_when.metric: no metric '{rule.metric}'", hint=suggest(rule.metric, metrics))
    reached = float(metrics[rule.metric]) >= rule.at_least
    loop.memory["stop_streak"] = loop.memory["stop_streak"] + 1 if reached else 0
    loop.stop = loop.memory["stop_streak"] >= rule.for_steps
