"""Whole jobs on a cluster: pretraining, SFT, GRPO, distillation, serving. Time, energy, money, by phase."""

from __future__ import annotations

from dataclasses import dataclass

from doran.arch.config import ModelConfig
from doran.base.errors import ConfigError
from doran.plan.cluster import train_step
from doran.plan.hardware import Efficiency, Hardware, standard
from doran.plan.layout import GPU_RUNTIME, Layout, training_bytes
from doran.plan.memory import RUNTIME, Memory
from doran.plan.prices import Prices
from doran.plan.search import Found, cheapest
from doran.plan.serving import Serving

PRETRAIN_BATCH = 4_000_000  # tokens of a step unless told otherwise
TUNE_BATCH = 500_000


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a job runs on. Without `devices` the cheapest number is looked for; `layout` fixes everything."""

    hardware: Hardware
    prices: Prices
    devices: int | None = None
    layout: Layout | None = None
    precision: str = "bf16"
    given_efficiency: Efficiency | None = None

    @property
    def efficiency(self) -> Efficiency:
        """The given model of it, else the standard one for this kind of device."""
        return self.given_efficiency or standard(self.hardware)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A planned job. `phases`: seconds of wall clock by phase; `limit`: what holds it back, in words."""

    name: str
    hardware: Hardware
    prices: Prices
    devices: int
    phases: dict[str, float]
    tokens: float
    flops: float
    memory: Memory
    layout: str
    limit: str

    @property
    def seconds(self) -> float:
        """Wall clock."""
        return sum(self.phases.values())

    @property
    def device_hours(self) -> float:
        """Hours of one device."""
        return self.seconds * self.devices / 3600

    @property
    def usd(self) -> float:
        """Rent, or electricity of an own CPU machine."""
        return self.device_hours * self.prices.per_hour(self.hardware)

    @property
    def kwh(self) -> float:
        """Energy at the socket."""
        return self.prices.kwh(self.hardware, self.device_hours)

    def phase_usd(self) -> dict[str, float]:
        """Money by phase."""
        return {name: self.usd * seconds / self.seconds for name, seconds in self.phases.items()}

    def mfu(self, dtype: str = "bfloat16") -> float:
        """Model FLOPs over the peak of all devices for the whole time."""
        return self.flops / self.seconds / self.devices / self.hardware.peak(dtype)

    def as_dict(self) -> dict[str, object]:
        """For --json."""
        return {
            "job": self.name, "hardware": self.hardware.name, "devices": self.devices, "layout": self.layout,
            "tokens": self.tokens, "flops": self.flops, "seconds": self.seconds, "device_hours": self.device_hours,
            "seconds_by_phase": self.phases, "usd": self.usd, "krw": self.prices.krw(self.usd), "kwh": self.kwh,
            "usd_by_phase": self.phase_usd(), "mfu": self.mfu(), "memory_bytes": self.memory.parts(),
            "peak_memory_bytes": self.memory.peak, "limit": self.limit,
        }  # fmt: skip


def train(
    name: str, config: ModelConfig, setup: Setup, tokens: float, length: int, batch_tokens: int | None = None
) -> Job:
    """A training job over `tokens` tokens in sequences of `length`."""
    _positive(tokens=tokens, length=length, batch_tokens=batch_tokens or 1)
    found = find(config, setup, tokens, length, batch_tokens or (PRETRAIN_BATCH if name == "pretrain" else TUNE_BATCH))
    steps = max(1.0, tokens / found.step.tokens)
    return _job(
        name, setup, found, {"training": _wall(setup, steps * found.step.seconds)}, tokens,
        steps * found.step.flops,
    )  # fmt: skip


def find(config: ModelConfig, setup: Setup, tokens: float, length: int, batch_tokens: int) -> Found:
    """The layout: the given one, or the cheapest."""
    sequences = max(1, round(min(tokens, batch_tokens) / length))
    if setup.layout:
        step = train_step(
            config, setup.hardware, setup.layout, sequences=max(sequences, setup.layout.dp), length=length,
            precision=setup.precision, efficiency=setup.efficiency,
        )  # fmt: skip
        runtime = RUNTIME if setup.hardware.kind == "cpu" else GPU_RUNTIME
        return Found(setup.layout, step, training_bytes(config, setup.layout, length, setup.precision, runtime))
    return cheapest(
        config, setup.hardware, sequences=sequences, length=length, precision=setup.precision, devices=setup.devices,
        efficiency=setup.efficiency,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Rl:
    """A GRPO job. `rollout`: completions sampled before the updates begin; `passes`: forward passes that score."""

    steps: int
    samples_per_step: int
    prompt_tokens: int
    completion_tokens: int
    longest: float  # the longest completion of a rollout, which everybody waits for
    rollout: int | None = None  # R1: 8,192, used up in 16 steps of 512
    reference: bool = True


def grpo(config: ModelConfig, setup: Setup, rl: Rl, drafts: bool = False) -> Job:
    """Sampling, scoring and updates apart, in turns on the same devices."""
    _positive(**{key: value for key, value in vars(rl).items() if value is not None and not isinstance(value, bool)})
    length = rl.prompt_tokens + rl.completion_tokens
    samples = rl.steps * rl.samples_per_step
    found = find(config, setup, samples * length, length, rl.samples_per_step * length)
    rollout = min(rl.rollout or rl.samples_per_step, samples)
    sampling = sampling_seconds(config, setup, found.layout.devices, rollout, rl, drafts) * samples / rollout
    update = samples * length / found.step.tokens_per_second
    scoring = update / 3 * (2 if rl.reference else 1)  # one forward pass each for the old policy and the reference
    phases = {"sampling": _wall(setup, sampling), "scoring": _wall(setup, scoring), "update": _wall(setup, update)}
    flops = found.step.flops / found.step.tokens * samples * length
    flops *= 1 + (2 if rl.reference else 1) / 3 + 1 / 3
    return _job("grpo", setup, found, phases, samples * length, flops)


def sampling_seconds(
    config: ModelConfig, setup: Setup, devices: int, completions: int, rl: Rl, drafts: bool = False
) -> float:
    """Seconds of one rollout of `completions`: full batches first, then thinner ones until the longest is done."""
    instance = serving_instance(config, setup, devices, rl.prompt_tokens + rl.completion_tokens, drafts)
    replicas = max(1, devices // instance.devices)
    each = completions / replicas / (instance.devices if instance.ep > 1 else 1)  # a device's or an instance's own
    context = rl.prompt_tokens + rl.completion_tokens / 2
    room = instance.hardware.memory / 1.15 - instance.memory(0, context).peak
    most = max(1.0, room / (context * instance.cache_per_token()))
    batch = min(each, most)
    tail = max(rl.completion_tokens, rl.longest)
    full = rl.completion_tokens * (each / batch - 1)
    thin = max(1.0, batch * rl.completion_tokens / tail)
    made = instance.tokens_per_step()
    return (full * instance.step_seconds(batch, context) + tail * instance.step_seconds(thin, context)) / made


def serving_instance(config: ModelConfig, setup: Setup, devices: int, context: int, drafts: bool = False) -> Serving:
    """The smallest instance (a power of two of devices) that holds the weights and ten sequences."""
    count = 1
    while True:
        instance = Serving(config=config, hardware=setup.hardware, devices=count, precision=setup.precision,
                           drafts=drafts, efficiency=setup.efficiency)  # fmt: skip
        if instance.memory(10, context).peak <= setup.hardware.memory or count * 2 > devices:
            return instance
        count *= 2


def distill(
    teacher: ModelConfig, student: ModelConfig, setup: Setup, traces: int, trace_tokens: int, epochs: float
) -> Job:
    """The teacher writes `traces` traces, the student is fine-tuned on them."""
    _positive(traces=traces, trace_tokens=trace_tokens, epochs=epochs)
    taught = train("distill", student, setup, traces * trace_tokens * epochs, trace_tokens)
    devices = setup.devices or smallest_serving(teacher, setup, trace_tokens)
    rl = Rl(
        steps=1, samples_per_step=traces, prompt_tokens=200, completion_tokens=trace_tokens, longest=2 * trace_tokens
    )
    sampling = _wall(setup, sampling_seconds(teacher, setup, devices, traces, rl))
    together = {"sampling": sampling * devices / taught.devices, **taught.phases}
    return Job(**{**vars(taught), "phases": together})


def smallest_serving(config: ModelConfig, setup: Setup, context: int) -> int:
    """Devices of the smallest instance that holds the model; ConfigError when 4096 do not."""
    instance = serving_instance(config, setup, 4096, context)
    if instance.memory(1, context).peak > setup.hardware.memory:
        raise ConfigError(f"no number of {setup.hardware.name} holds this model", hint="take larger devices")
    return instance.devices


def _wall(setup: Setup, seconds: float) -> float:
    """Wall clock of a long run on a cluster: some of it is lost to failures. A single machine has none."""
    lone = setup.hardware.kind == "cpu" or (setup.devices or 2) == 1
    return seconds / (1.0 if lone else setup.efficiency.availability)


def _job(name: str, setup: Setup, found: Found, phases: dict[str, float], tokens: float, flops: float) -> Job:
    return Job(
        name=name, hardware=setup.hardware, prices=setup.prices, devices=found.layout.devices, phases=phases,
        tokens=tokens, flops=flops, memory=found.memory, layout=str(found.layout), limit=found.limit(setup.hardware),
    )  # fmt: skip


def _positive(**values: float) -> None:
    for key, value in values.items():
        if not value > 0:
            raise ConfigError(f"plan: {key} is {value:g}", hint="give a number above zero")
