"""GRPO: sample groups, score them, push the policy towards what beat its group (DeepSeekMath; R1 s2.2). With switches.

Defaults are what small models do best with: no KL (no reference model held), token-level loss and clip-higher (DAPO),
groups without variance dropped, rollouts in bfloat16 with their gap to the trainer weighted out (TIS). The paper's own
GRPO is aggregation="sequence", clip_high=0.2, beta=0.04, drop_zero_variance=false, tis_cap=null; Dr.GRPO is
aggregation="constant", scale_rewards="none".
Everything else the field uses is a switch of grpo_settings.py; docs/concepts/rl-algorithms.md says what each is for.
Not here: a value model, a reward model.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from doran.base.errors import ConfigError, suggest
from doran.base.rng import python_rng
from doran.base.runlog import MetricsWriter, Progress, read_metrics
from doran.engine.engine import Engine
from doran.engine.remote import RemoteEngine
from doran.layers.lora import lora_layers, merged
from doran.models.decoder import Decoder
from doran.parallel.world import SOLO, World
from doran.train.advantage import zero_variance
from doran.train.ahead import Ahead
from doran.train.alarms import new_alarms
from doran.train.curriculum import PromptBook, Replay
from doran.train.grpo_settings import GrpoSettings, StopRule
from doran.train.loop import Loop, Metrics, StepFn, divided, load_module_tensors, module_tensors
from doran.train.losses import adapted_coefficient
from doran.train.optim import build_optimizer
from doran.train.recorder import Recorder
from doran.train.rehearsal import rehearse_grpo
from doran.train.rollout import Dialect, Draw, Environment, Reward, Rollout, Sample, Source, roll_out
from doran.train.sampling import Sampler
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
    environment: Environment | None = None,
    world: World = SOLO,
    remote: RemoteEngine | None = None,
) -> Path:
    """Train `model` in place and return out_dir/model. `draw(rng, n)` gives n items.

    `watch()` is called every `watch_every` steps and after the last; its numbers join the log, it must change nothing.
    `environment` answers the model between its turns (samples.Environment). In a `world` of several processes each
    samples, judges and learns its share of a step; the first one watches, records and raises alarms. `remote`: a
    server to sample from, made for this very `model`; it gets the weights before the first step and after each.
    """
    out_dir = Path(out_dir)
    if settings.async_rollouts and (world.size > 1 or remote):
        raise ConfigError("async_rollouts samples in this process, alone", hint="set async_rollouts=false")
    if settings.async_rollouts and lora_layers(model):
        raise ConfigError("async_rollouts and LoRA do not go together", hint="leave one of them out")
    if world.shards and settings.mtp_lambda:
        raise ConfigError("mtp_lambda trains the MTP module apart from divided weights", hint="set mtp_lambda=0")
    reference = divided(copy.deepcopy(model).requires_grad_(False), world) if settings.beta else None
    policy = divided(copy.deepcopy(model), world) if world.shards else model
    loop = Loop(
        policy,
        build_optimizer(policy, settings, world),
        settings,
        out_dir,
        settings.steps,
        progress,
        shown=("reward", "completions/mean_length", "entropy", "tokens_per_second"),
        add_files=add_files,
        memory={"num_tokens": 0, "stop_streak": 0, **fresh_memory(settings)},
        companions={"reference": reference} if reference is not None else {},
        world=world,
    )

    with loop.writer("samples.jsonl") as writer:

        def start(first: int) -> StepFn:
            writer.truncate_after(first)
            if first == 0 and settings.rehearse and world.size == 1:
                drawn = draw(python_rng("rehearsal", settings.seed), settings.prompts_per_step)
                rehearse_grpo(loop.model, [dialect.encode(item) for item in drawn], settings)
            run = make_run(  # after the memory is restored
                loop, dialect, draw, rewards, reference, writer, environment, model, remote
            )
            run.refresh()
            watchman = Watchman(out_dir, progress, first) if world.first else None
            if run.recorder is not None:
                run.recorder.truncate_after(first)

            def step_fn(step: int) -> Metrics:
                metrics = grpo_step(run, step)
                if watch is not None and watch_every and ((step + 1) % watch_every == 0 or step + 1 == settings.steps):
                    with merged(run.sampled):
                        metrics |= world.once(watch)
                _apply_stop_rule(loop, settings.stop_when, metrics)
                if watchman is not None:
                    watchman.look(step + 1, metrics)
                return metrics

            return step_fn

        return loop.run(start)


@dataclass
class Run:
    """What the steps of one run share."""

    loop: Loop
    settings: GrpoSettings
    source: Source
    reference: Decoder | None
    writer: MetricsWriter
    sampled: Decoder  # the policy as the engine reads it: a whole copy where the trained one is divided
    ahead: Ahead | None = None
    recorder: Recorder | None = None

    def refresh(self) -> None:
        """Bring the copy up to date, if there is one, here or on a server."""
        if self.sampled is not self.loop.model:
            from doran.parallel.shards import gathered

            gathered(self.loop.model, self.sampled)
        engine = self.source.sampler.engine
        if isinstance(engine, RemoteEngine):
            with merged(self.sampled):
                self.loop.world.once(engine.update)


def fresh_memory(s: GrpoSettings) -> dict[str, Any]:
    """What the checkpoint keeps besides weights and optimizer, for the options in use."""
    memory: dict[str, Any] = {}
    if s.choice == "variance":
        memory["prompts"] = {}
    if s.replay_groups:
        memory["replay"] = []
    if s.async_rollouts:
        memory["ahead"] = {}
    if s.entropy_target is not None:
        memory["entropy_coef"] = s.entropy_coef
    return memory


def make_run(
    loop: Loop,
    dialect: Dialect,
    draw: Draw,
    rewards: Sequence[Reward],
    reference: Decoder | None,
    writer: MetricsWriter,
    environment: Environment | None = None,
    sampled: Decoder | None = None,
    remote: RemoteEngine | None = None,
) -> Run:
    """Engine, sampler and memories for a loop whose state is restored. `sampled`: whom to sample from, if not
    loop.model; `remote`: and where, if not here."""
    sampled = sampled or loop.model
    s, memory = loop.settings, loop.memory
    assert isinstance(s, GrpoSettings)
    dtype = torch.bfloat16 if s.rollout_bf16 else None
    engine = remote or Engine(sampled, max_batch=s.max_batch, compute_dtype=dtype)
    source = Source(
        Sampler(engine, dialect, s, environment, loop.world),
        draw,
        rewards,
        PromptBook(memory["prompts"]) if s.choice == "variance" else None,
        Replay(memory["replay"], s.replay_groups, s.replay_max_age) if s.replay_groups else None,
    )
    ahead = Ahead(loop.model, source, memory["ahead"]) if s.async_rollouts else None
    recorder = Recorder(loop.out_dir, s.record, dialect) if s.record != "none" and loop.world.first else None
    return Run(loop, s, source, reference, writer, sampled, ahead, recorder)


def grpo_step(run: Run, step: int) -> Metrics:
    """Rollout, update, and the row for the log."""
    loop, settings, dialect = run.loop, run.settings, run.source.sampler.dialect
    refresh = settings.reference_refresh_steps
    if run.reference is not None and refresh and step and step % refresh == 0:
        load_module_tensors(run.reference, module_tensors(loop.model))
    with merged(run.sampled):
        rollout = roll_out(run.source, step, run.ahead.take(step) if run.ahead else None)
    sampling_ahead = run.ahead is not None and step + 1 < loop.total_steps
    if run.ahead is not None and sampling_ahead:
        run.ahead.start(step + 1)
    began = time.perf_counter()
    learnt = [*rollout.kept, *rollout.replayed]
    update = update_policy(
        loop.model, loop.optimizer, learnt, settings, loop.lr_factor(step), run.reference, bonus_weight(loop, settings),
        loop.world,
    )  # fmt: skip
    run.refresh()
    update_seconds = time.perf_counter() - began
    if run.ahead is not None and sampling_ahead:
        run.ahead.finish(step + 1)
    loop.memory["num_tokens"] += sum(len(x.prompt_ids) + x.length for x in rollout.samples)
    metrics = {
        **rollout_metrics(rollout),
        **policy_metrics(update),
        **option_metrics(rollout, settings),
        "num_tokens": loop.memory["num_tokens"],
        "time/sample": rollout.sample_seconds,
        "time/score": rollout.score_seconds,
        "time/update": update_seconds,
    }
    if settings.entropy_target is not None and update["updates"]:
        metrics["entropy_coef"] = adapt_entropy(loop, settings, float(metrics["entropy"]))
    for sample in chosen(rollout.samples, settings.samples_per_step):
        run.writer.write(sample_row(step + 1, sample, dialect))
    if run.recorder is not None:
        run.recorder.write(step + 1, rollout)
    return metrics


def bonus_weight(loop: Loop, s: GrpoSettings) -> float | None:
    """The weight of the entropy bonus now; None: as the settings say. Above the target there is no bonus."""
    if s.entropy_target is None:
        return None
    return loop.memory["entropy_coef"] if loop.memory.get("entropy", 0.0) <= s.entropy_target else 0.0


def adapt_entropy(loop: Loop, s: GrpoSettings, entropy: float) -> float:
    """Move the coefficient after an update; returns where it stands."""
    assert s.entropy_target is not None
    coefficient = adapted_coefficient(loop.memory["entropy_coef"], entropy, s.entropy_target, s.entropy_coef_step)
    loop.memory.update(entropy_coef=coefficient, entropy=entropy)
    return coefficient


@dataclass
class Watchman:
    """Looks at every row for alarms: says a new one on the terminal and writes it to alarms.jsonl."""

    out_dir: Path
    progress: Progress | None
    first: int
    rows: list[Metrics] = field(default_factory=list)
    standing: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rows = [row for row in read_metrics(self.out_dir / "metrics.jsonl") if row.get("step", 0) <= self.first]
        if self.rows:
            new_alarms(self.rows, self.standing)  # already said
        if (self.out_dir / "alarms.jsonl").exists():
            with MetricsWriter(self.out_dir / "alarms.jsonl") as log:
                log.truncate_after(self.first)

    def look(self, step: int, metrics: Metrics) -> None:
        """Take the row of a step."""
        self.rows.append(metrics)
        for alarm in new_alarms(self.rows, self.standing):
            with MetricsWriter(self.out_dir / "alarms.jsonl") as log:
                log.write({"step": step, "alarm": alarm.name, "seen": alarm.seen, "mend": alarm.mend})
            if self.progress is not None:
                self.progress.note(f"alarm at step {step}: {alarm.seen}\n  -> {alarm.mend}")


def rollout_metrics(rollout: Rollout) -> Metrics:
    """What the rollout alone says, under TRL's names; over all completions sampled, dropped groups included."""
    lengths = [x.length for x in rollout.samples]
    names = dict.fromkeys(name for x in rollout.samples for name in x.rewards)
    parts = {name: [x.rewards[name] for x in rollout.samples if name in x.rewards] for name in names}
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


def option_metrics(rollout: Rollout, s: GrpoSettings) -> Metrics:
    """What options that are in use have to say."""
    metrics: Metrics = {}
    if s.on_fault == "drop":
        metrics["completions/count"] = len(rollout.samples)
        metrics["faults/completions"] = sum(x.fault is not None for x in rollout.samples)
        metrics["faults/prompts"] = rollout.unusable_prompts
    if s.probe:  # the groups that were completed are no fair sample: the probes are
        metrics["reward"] = sum(rollout.probe_rewards) / len(rollout.probe_rewards)
        metrics["probe/mixed"] = rollout.mixed / rollout.probed
    if s.replay_groups:
        metrics["replay/groups"] = len({x.group for x in rollout.replayed})
    if any(x.mask for x in rollout.samples):
        own = sum(x.num_learned for x in rollout.samples)
        metrics["environment/tokens"] = sum(x.length for x in rollout.samples) - own
    return metrics


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
