"""What a GRPO run may be told. No behaviour here."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from doran.base.config import StrictModel, later
from doran.train.advantage import Estimator, Scale
from doran.train.loop import LoopSettings
from doran.train.losses.importance import Cut, Level
from doran.train.losses.kl import KlEstimator
from doran.train.losses.policy import Aggregation, Objective
from doran.train.schedule import ScheduleName


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
    # what follows came later and is off by default
    advantage: Estimator = later("group", description="group (GRPO), rloo, reinforce++, reinforce++baseline or gdpo")
    objective: Objective = later("clip", description="clip (PPO's), cispo (clipped weight) or sapo (soft gate)")
    ratio_cap: float | None = later(
        None, gt=1, description="bound on the ratio where the advantage is negative too (INTELLECT-2: 4)"
    )
    off_policy_delta: float | None = later(
        None, gt=0, description="drop bad completions that the policy has left by so many nats a token (DeepSeek-V3.2)"
    )
    kl_estimator: KlEstimator = later("k3", description="k3 or k2 in the loss, or k1 in the reward")
    importance_level: Level = later(
        "token", description="tis_cap applies to the ratio of a token, a sequence (product) or its geometric mean"
    )
    importance_cut: Cut = later(
        "truncate", description="above tis_cap: truncate the weight (TIS) or mask it to 0 (MIS)"
    )
    importance_floor: float = later(
        0.0, ge=0, description="with importance_cut=mask: weights below it are 0 too (IcePop: 0.5)"
    )
    entropy_coef: float = later(0.0, ge=0, description="weight of the entropy bonus, in nats a token")
    entropy_target: float | None = later(
        None, gt=0, description="adapt entropy_coef to hold this entropy; no bonus above it (Skywork-OR1)"
    )
    entropy_coef_step: float = later(0.005, gt=0, description="how far entropy_coef moves in a step")
    exact_logprobs: bool = later(
        False, description="score what was sampled once more with the trainer's own forward, so that gap/* is exactly 0"
    )
    async_rollouts: bool = later(
        False, description="sample the next step's rollouts while this one updates: one step off-policy, deterministic"
    )
    # sample efficiency
    probe: int = later(
        0,
        ge=0,
        description="completions of a prompt sampled first; only groups where they differ are completed; 0: off",
    )
    probe_prompts: int | None = later(
        None,
        ge=1,
        description="prompts probed a step (default: twice prompts_per_step); the most uncertain are completed",
    )
    choice: Literal["uniform", "variance"] = later(
        "uniform", description="variance: prefer prompts whose success rate so far is near one half"
    )
    choice_candidates: int = later(4, ge=1, description="with choice=variance: prompts drawn for each one chosen")
    replay_groups: int = later(
        0, ge=0, description="informative groups remembered, to fill up updates that lack some; 0: off"
    )
    replay_max_age: int = later(4, ge=1, description="steps after which a remembered group is forgotten")
    stop_repeats_after: int | None = later(
        None, ge=16, description="look every so many tokens for completions that go in circles, and end them"
    )
    # environments
    max_turns: int = later(8, ge=1, description="turns of the model in an environment")
    # trouble
    rehearse: bool = later(
        False, description="before step 1 try the fullest micro-batch, so that too little memory shows at once"
    )
    on_fault: Literal["stop", "drop"] = later(
        "stop", description="a judge that fails, or an unusable prompt: stop the run, or leave it out, counted"
    )
    reward_timeout_s: float | None = later(None, gt=0, description="seconds a reward function may take for a step")
    record: Literal["none", "jsonl", "parquet"] = later(
        "none", description="write every completion of every step to rollouts/, for doran rollouts"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.async_rollouts and (self.max_refills or self.probe or self.stop_repeats_after):
            raise ValueError(
                "async_rollouts samples ahead in one go: set max_refills=0, probe=0, stop_repeats_after=null"
            )
        if (self.async_rollouts or self.replay_groups) and self.tis_cap is None:
            raise ValueError("rollouts of an older policy need their weights: set tis_cap (2.0 is usual)")
        if self.advantage == "reinforce++" and self.drop_zero_variance:
            raise ValueError(
                "reinforce++ has no group baseline, so groups of one reward teach: set drop_zero_variance=false"
            )
        if self.importance_floor and self.importance_cut != "mask":
            raise ValueError("importance_floor masks: set importance_cut=mask")
        if self.probe >= self.group_size:
            raise ValueError(f"probe is a part of the group: set it below group_size ({self.group_size})")
        if self.probe == 1:
            raise ValueError("one completion cannot differ from itself: set probe=2 or more, or 0")
        return self
