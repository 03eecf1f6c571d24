"""How a model is spread over devices (Layout) and the bytes each device then holds, by part. No time here.

A stage of the pipeline has dp * tp devices; experts are spread over `ep` of them. ZeRO: 1 shards the optimizer over the
data-parallel replicas, 2 gradients as well, 3 (FSDP) weights as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from doran.arch.config import ModelConfig
from doran.base.errors import ConfigError
from doran.plan.kernels import layer_kinds, layer_matmuls, touched_values
from doran.plan.memory import Memory
from doran.plan.schedules import Schedule, find_schedule

GPU_RUNTIME = 3 * 2**29  # driver context, communication buffers, workspace
RECOMPUTE = ("none", "selective", "full")
PRECISIONS = {  # bytes of a weight, a gradient, the optimizer's share (fp32 master included), and the matmul dtype
    "fp32": (4, 4, 8, "float32"),
    "bf16": (2, 4, 12, "bfloat16"),
    "fp8": (1, 4, 8, "float8"),  # V3 s3.3.3: FP8 weights, FP32 master and gradients, BF16 moments
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """`micro_sequences` go through the pipeline together; `chunks`: model pieces per device (interleaved)."""

    dp: int = 1
    tp: int = 1
    pp: int = 1
    ep: int = 1
    zero: int = 1
    micro_sequences: int = 1
    schedule: str = "1f1b"
    chunks: int = 1
    recompute: str = "none"  # selective: norms, SwiGLU products, MLA up-projections (V3 s3.2.3); full: whole layers

    def __post_init__(self) -> None:
        for key in ("dp", "tp", "pp", "ep", "micro_sequences", "chunks"):
            if getattr(self, key) < 1:
                raise ConfigError(f"layout: {key} is {getattr(self, key)}", hint="give a whole number of one or more")
        if self.zero not in (0, 1, 2, 3):
            raise ConfigError(f"layout: zero is {self.zero}", hint="use 0, 1, 2 or 3")
        if self.recompute not in RECOMPUTE:
            raise ConfigError(f"layout: recompute is {self.recompute!r}", hint=f"use {', '.join(RECOMPUTE)}")
        find_schedule(self.schedule)
        if (self.dp * self.tp) % self.ep:
            raise ConfigError(f"layout: ep {self.ep} does not divide dp * tp = {self.dp * self.tp}")
        if self.schedule == "dualpipe" and self.pp > 1 and self.pp % 2:
            raise ConfigError(f"layout: dualpipe with pp {self.pp}", hint="it needs an even number of stages")

    @property
    def devices(self) -> int:
        """All devices together."""
        return self.dp * self.tp * self.pp

    @property
    def pipeline(self) -> Schedule:
        """The schedule's formulas."""
        return find_schedule(self.schedule)

    def __str__(self) -> str:
        named = {"dp": self.dp, "tp": self.tp, "pp": self.pp, "ep": self.ep}
        words = [f"{key}{value}" for key, value in named.items() if value > 1] or ["one device"]
        words += [f"ZeRO-{self.zero}"] if self.dp > 1 and self.zero else []
        words += [self.schedule + (f" x{self.chunks}" if self.chunks > 1 else "")] if self.pp > 1 else []
        return " ".join(words + ([f"{self.recompute} recompute"] if self.recompute != "none" else []))


def parse_layout(text: str) -> Layout:
    """Layout from "dp=128,pp=16,ep=64,schedule=dualpipe"; ConfigError names the wrong part."""
    values: dict[str, object] = {}
    known = Layout.__dataclass_fields__
    for part in text.replace(" ", ",").split(","):
        key, equals, value = part.strip().partition("=")
        if not part.strip():
            continue
        if not equals or key not in known:
            raise ConfigError(f"layout: {part!r} is not understood", hint=f"use {', '.join(known)}, as in dp=8,tp=2")
        if key in ("schedule", "recompute"):
            values[key] = value
        elif value.isdecimal():
            values[key] = int(value)
        else:
            raise ConfigError(f"layout: {key} is {value!r}", hint="give a whole number")
    return Layout(**values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Shard:
    """Parameters of the fullest device: those every replica has, and its share of the experts."""

    shared: float
    experts: float

    @property
    def total(self) -> float:
        """Both."""
        return self.shared + self.experts


def shard(config: ModelConfig, layout: Layout) -> Shard:
    """Weights of the fullest pipeline stage's device, before ZeRO-3. Norms are left out: thousandths."""
    shared = experts = 0.0
    for moe, n in layer_kinds(config, mtp=True).items():
        for m in layer_matmuls(config, moe):
            if m.copies > 1:
                experts += n * m.parameters / max(layout.ep, layout.tp)
            else:
                shared += n * m.parameters / layout.tp
    table = config.vocab_size * config.hidden_size / layout.tp
    tables = 1 if config.tie_word_embeddings or layout.pp > 1 else 2
    copies = layout.pipeline.parameter_copies if layout.pp > 1 else 1
    return Shard(copies * shared / layout.pp + tables * table, copies * experts / layout.pp)


def training_bytes(
    config: ModelConfig, layout: Layout, length: int, precision: str = "bf16", runtime: int | None = None
) -> Memory:
    """Bytes of one device in training, by part, for sequences of `length` tokens."""
    weight, gradient, optimizer, _ = _precision(precision)
    held = shard(config, layout)
    copies = max(1, layout.dp * layout.tp // layout.ep) if config.n_routed_experts else layout.dp

    def spread(bytes_each: int, sharded: bool) -> int:
        if not sharded:
            return round(held.total * bytes_each)
        return round((held.shared / layout.dp + held.experts / max(1, copies)) * bytes_each)

    return Memory(
        weights=spread(weight, layout.zero >= 3),
        gradients=spread(gradient, layout.zero >= 2),
        optimizer=spread(optimizer, layout.zero >= 1),
        activations=round(activation_bytes_per_device(config, layout, length, precision)),
        runtime=GPU_RUNTIME if runtime is None else runtime,
    )


def activation_bytes_per_device(config: ModelConfig, layout: Layout, length: int, precision: str) -> float:
    """Activations of the micro-batches in flight on the first stage, and one micro-batch's logits."""
    tokens = layout.micro_sequences * length
    kinds = layer_kinds(config)
    value = 4 if precision == "fp32" else 2
    layers = sum(n * kept_bytes(config, moe, layout.recompute, precision) for moe, n in kinds.items())
    in_flight = layout.pipeline.micro_batches_held(layout.pp, layout.chunks) if layout.pp > 1 else 1
    again = max(touched_values(config, moe) for moe in kinds) * value if layout.recompute == "full" else 0
    logits = 2 * 4 * tokens * config.vocab_size / layout.tp if layout.pp == 1 else 0
    return tokens * (layers / layout.pp * in_flight + again) / layout.tp + logits


def kept_bytes(config: ModelConfig, moe: bool, recompute: str, precision: str) -> float:
    """Bytes one token leaves in one layer until its backward pass.

    Selective keeps block inputs, latents (or q, k, v), the attention output and the SwiGLU's two inputs; in FP8 the
    experts' inputs and SwiGLU inputs take one byte (V3 s3.3.3).
    """
    value = 4 if precision == "fp32" else 2
    if recompute == "none":
        return touched_values(config, moe) * value
    if recompute == "full":
        return config.hidden_size * value
    small = 1 if precision == "fp8" else value
    heads, d = config.num_attention_heads, config.hidden_size
    if config.is_mla:
        latent = (config.q_lora_rank or heads * config.qk_head_dim) + config.kv_lora_rank + config.qk_rope_head_dim
        attention = d + latent + heads * config.v_head_dim
    else:
        attention = d + 2 * (heads + config.num_key_value_heads) * config.head_dim
    if not moe:
        return (attention + d) * value + 2 * config.intermediate_size * small
    visited = config.num_experts_per_tok + config.n_shared_experts
    experts = config.num_experts_per_tok * d + 2 * visited * config.moe_intermediate_size
    return (attention + d) * value + experts * small


def fits(memory: Memory, room: int) -> bool:
    """Whether the peak, slack included, is below the device's memory."""
    return memory.peak <= room


def _precision(name: str) -> tuple[int, int, int, str]:
    if name not in PRECISIONS:
        raise ConfigError(f"precision is {name!r}", hint=f"use one of: {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def matmul_dtype(precision: str) -> str:
    """The dtype of matrix products."""
    return _precision(precision)[3]
