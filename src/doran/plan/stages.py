"""One stage's plan from its settings: pretrain, SFT, GRPO. Reads no recipe; the recipe layer fills the settings in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from doran.arch.config import ModelConfig
from doran.arch.count import Counts, parameters
from doran.base.errors import ConfigError
from doran.plan.hardware import DEFAULT, DTYPE_BYTES, Efficiency, Hardware, standard
from doran.plan.memory import ROLLOUT_BYTES, Memory, cache_bytes, stored_parameters, training_memory
from doran.plan.time import NOTHING, Clock, Work


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """`length`: mean tokens of a document (attention stays inside it). `micro_tokens`: tokens of one forward pass."""

    steps: int
    tokens_per_step: int
    length: int
    micro_tokens: int | None = None
    dtype: str = "float32"
    optimizer: str = "adamw"
    activation_checkpointing: bool = False
    mtp: bool | float = True  # train the MTP modules, if the model has any; a number: on that share of the tokens


@dataclass(frozen=True, kw_only=True)
class Sft:
    """`examples` conversations of `length` tokens on average, seen `epochs` times."""

    examples: int
    length: int
    epochs: float = 1.0
    micro_tokens: int = 8192
    dtype: str = "float32"
    optimizer: str = "adamw"
    activation_checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class Grpo:
    """`completion_tokens`: mean length expected; `max_new_tokens`: the limit; `updates`: passes over a batch (mu)."""

    steps: int
    prompts_per_step: int
    group_size: int
    prompt_tokens: int
    completion_tokens: int
    max_new_tokens: int
    updates: int = 1
    reference: bool = True  # a KL term needs a second model and one more forward pass
    micro_tokens: int | None = None
    max_batch: int = 256
    dtype: str = "float32"
    optimizer: str = "adamw"
    activation_checkpointing: bool = False
    rollout_dtype: str | None = None  # of sampling, when it is another than training's
    eval_completions: int = 0  # held-out completions over the whole stage


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What one stage will cost. `work` by part: train, rollout, reference, evaluation."""

    name: str
    counts: Counts
    steps: int
    memory: Memory
    work: dict[str, Work] = field(default_factory=dict)

    @property
    def total(self) -> Work:
        """All parts together; its tokens count every pass over a token."""
        return sum(self.work.values(), NOTHING)

    @property
    def trained_tokens(self) -> int:
        """Tokens that went forward and backward."""
        return self.work["train"].tokens


def plan_pretrain(
    config: ModelConfig,
    settings: Pretrain,
    hardware: Hardware = DEFAULT,
    efficiency: Efficiency | None = None,
    name: str = "pretrain",
) -> StagePlan:
    """Plan of a pretraining stage."""
    _check(settings)
    clock = _clock(config, hardware, efficiency, settings.dtype)
    micro = min(settings.micro_tokens or settings.tokens_per_step, settings.tokens_per_step)
    again = settings.activation_checkpointing
    work = clock.train(settings.steps * settings.tokens_per_step, settings.length, settings.mtp, micro, again)
    work += clock.optimize(settings.steps, settings.optimizer)
    memory = training_memory(
        config,
        micro,
        dtype_bytes=_bytes(settings.dtype),
        optimizer=settings.optimizer,
        activation_checkpointing=again,
    )
    return StagePlan(name=name, counts=parameters(config), steps=settings.steps, memory=memory, work={"train": work})


def plan_sft(
    config: ModelConfig,
    settings: Sft,
    hardware: Hardware = DEFAULT,
    efficiency: Efficiency | None = None,
    name: str = "sft",
) -> StagePlan:
    """Plan of a supervised stage (cold start, rejection sampling's SFT, distillation)."""
    _check(settings)
    tokens = round(settings.examples * settings.length * settings.epochs)
    steps = max(1, -(-tokens // settings.micro_tokens))
    as_pretrain = Pretrain(
        steps=steps,
        tokens_per_step=-(-tokens // steps),
        length=settings.length,
        micro_tokens=settings.micro_tokens,
        dtype=settings.dtype,
        optimizer=settings.optimizer,
        activation_checkpointing=settings.activation_checkpointing,
        mtp=False,
    )
    return plan_pretrain(config, as_pretrain, hardware, efficiency, name)


def plan_grpo(
    config: ModelConfig,
    settings: Grpo,
    hardware: Hardware = DEFAULT,
    efficiency: Efficiency | None = None,
    name: str = "grpo",
) -> StagePlan:
    """Plan of a reinforcement-learning stage: rollouts, the reference's scores, the updates, the evaluations."""
    _check(settings)
    _bytes(settings.dtype)
    clock = _clock(config, hardware, efficiency, settings.dtype)
    sampler = _clock(config, hardware, efficiency, settings.rollout_dtype or settings.dtype)
    samples = settings.prompts_per_step * settings.group_size
    length = settings.prompt_tokens + settings.completion_tokens
    trained = settings.steps * samples * length
    micro = min(settings.micro_tokens or samples * length, samples * length)
    work = {
        "rollout": _sampling(sampler, settings, settings.steps, settings.prompts_per_step, settings.group_size),
        "train": clock.train(
            trained * settings.updates, length, micro_tokens=micro, checkpointing=settings.activation_checkpointing
        )
        + clock.optimize(settings.steps * settings.updates, settings.optimizer),
    }
    if settings.reference:
        work["reference"] = clock.score(trained, length, micro)
    if settings.eval_completions:
        work["evaluation"] = _sampling(sampler, settings, 1, settings.eval_completions, 1)
    memory = _grpo_memory(config, settings, samples, length)
    return StagePlan(name=name, counts=parameters(config), steps=settings.steps, memory=memory, work=work)


def _sampling(clock: Clock, settings: Grpo, times: int, prompts: int, group: int) -> Work:
    """Prefill once per prompt (a group shares it), then decode."""
    prefill = clock.score(prompts * settings.prompt_tokens, settings.prompt_tokens)
    decode = clock.decode(
        prompts * group,
        settings.prompt_tokens,
        settings.completion_tokens,
        settings.max_new_tokens,
        settings.max_batch,
    )
    return (prefill + decode) * times


def _grpo_memory(config: ModelConfig, settings: Grpo, samples: int, length: int) -> Memory:
    dtype_bytes, step_tokens = _bytes(settings.dtype), samples * length
    micro_tokens = min(settings.micro_tokens or step_tokens, step_tokens)
    memory = training_memory(
        config, micro_tokens, dtype_bytes=dtype_bytes, optimizer=settings.optimizer,
        activation_checkpointing=settings.activation_checkpointing,
    )  # fmt: skip
    longest = settings.prompt_tokens + settings.max_new_tokens
    return replace(
        memory,
        reference=stored_parameters(config) * dtype_bytes if settings.reference else 0,
        cache=cache_bytes(config, min(samples, settings.max_batch), longest, dtype_bytes),
        rollouts=samples * longest * ROLLOUT_BYTES,
    )


def _clock(config: ModelConfig, hardware: Hardware, efficiency: Efficiency | None, dtype: str) -> Clock:
    return Clock(config=config, hardware=hardware, efficiency=efficiency or standard(hardware), dtype=dtype)


def _bytes(dtype: str) -> int:
    if dtype not in DTYPE_BYTES:
        raise ConfigError(f"dtype is {dtype!r}", hint=f"use one of: {', '.join(DTYPE_BYTES)}")
    return DTYPE_BYTES[dtype]


def _check(settings: Pretrain | Sft | Grpo) -> None:
    """Refuse counts below one, which would plan nothing in silence."""
    for key, value in vars(settings).items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key != "eval_completions" and value <= 0:
            raise ConfigError(f"plan: {key} is {value}", hint="give a number above zero")
