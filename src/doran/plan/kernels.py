"""The operations one token meets, from a model's config, and the seconds they take on a device. Pure arithmetic.

A layer is a list of matrix products, an attention core and the values that plain kernels read and write. Time adds up
under the one efficiency model (hardware.py). Communication between devices is in cluster.py and serving.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from doran.arch.config import ModelConfig
from doran.plan.hardware import DTYPE_BYTES, Efficiency, Hardware

Form = Literal["expanded", "absorbed", "gqa"]
OPS_FORWARD = 24  # plain operations of one layer's forward pass beside its matrix products; backward twice as many


@dataclass(frozen=True)
class Matmul:
    """A (rows, cols) weight matrix. Each token passes it `visits` times; `copies` of it are stored (experts)."""

    rows: int
    cols: int
    visits: int = 1
    copies: int = 1
    kept: bool = False  # stays in bfloat16 when the others are FP8: router and head (V3 s3.3)

    @property
    def flops(self) -> int:
        """Forward operations for one token."""
        return 2 * self.visits * self.rows * self.cols

    @property
    def parameters(self) -> int:
        """Values stored."""
        return self.copies * self.rows * self.cols


def attention_matmuls(config: ModelConfig) -> list[Matmul]:
    """Projections of one attention block (no cores)."""
    d, heads = config.hidden_size, config.num_attention_heads
    if not config.is_mla:
        kv = 2 * config.num_key_value_heads * config.head_dim
        return [Matmul(heads * config.head_dim + kv, d), Matmul(d, heads * config.head_dim)]
    query = heads * config.qk_head_dim
    into = [Matmul(query, d)]
    if config.q_lora_rank:
        into = [Matmul(config.q_lora_rank, d), Matmul(query, config.q_lora_rank)]
    latent = Matmul(config.kv_lora_rank + config.qk_rope_head_dim, d)
    # absorbed decoding multiplies by the two halves of kv_b in another order: the same operations
    up = Matmul(heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank)
    return [*into, latent, up, Matmul(d, heads * config.v_head_dim)]


def mlp_matmuls(config: ModelConfig, moe: bool) -> list[Matmul]:
    """SwiGLU of a dense layer, or router, experts and shared experts."""
    d = config.hidden_size
    if not moe:
        return [Matmul(2 * config.intermediate_size, d), Matmul(d, config.intermediate_size)]
    width, experts, top = config.moe_intermediate_size, config.n_routed_experts, config.num_experts_per_tok
    made = [Matmul(experts, d, kept=True), Matmul(2 * width, d, top, experts), Matmul(d, width, top, experts)]
    if shared := config.n_shared_experts * width:
        made += [Matmul(2 * shared, d), Matmul(d, shared)]
    return made


def layer_matmuls(config: ModelConfig, moe: bool) -> list[Matmul]:
    """All matrix products of one layer."""
    return [*attention_matmuls(config), *mlp_matmuls(config, moe)]


def layer_kinds(config: ModelConfig, mtp: bool = False) -> dict[bool, int]:
    """{has experts: how many such layers}; `mtp` adds the MTP modules' blocks."""
    depth = config.num_hidden_layers + (config.num_nextn_predict_layers if mtp else 0)
    moe = sum(config.is_moe(layer) for layer in range(depth))
    return {kind: count for kind, count in ((False, depth - moe), (True, moe)) if count}


def form_of(config: ModelConfig, decoding: bool = False) -> Form:
    """The attention form in use: MLA trains and prefills expanded, decodes absorbed."""
    return "gqa" if not config.is_mla else "absorbed" if decoding else "expanded"


def core_flops(config: ModelConfig, context: float, form: Form) -> float:
    """Forward operations of one layer's attention core for one token that sees `context` keys, itself included.

    expanded: heads * (qk + v) values a key; absorbed: heads * (2 kv_lora_rank + rope), an MQA over the latent.
    """
    heads = config.num_attention_heads
    if form == "absorbed":
        return 2.0 * heads * (2 * config.kv_lora_rank + config.qk_rope_head_dim) * context
    value = config.v_head_dim if config.is_mla else config.head_dim
    return 2.0 * heads * (config.qk_head_dim + value) * context


def attention_flops(config: ModelConfig, context: float, form: Form) -> float:
    """The cores of all layers."""
    return config.num_hidden_layers * core_flops(config, context, form)


def touched_values(config: ModelConfig, moe: bool) -> int:
    """Values one token leaves in memory in one layer: what a backward pass without recomputation reads again."""
    return attention_values(config) + mlp_values(config, moe)


def attention_values(config: ModelConfig) -> int:
    """Block input, its norm, q, k, v, the attention output; for MLA the latents and their norms as well."""
    width, heads = config.hidden_size, config.num_attention_heads
    if not config.is_mla:
        heads_in = heads + 2 * config.num_key_value_heads
        return 2 * width + (heads_in + heads) * config.head_dim
    query = 2 * (config.q_lora_rank or 0) + 2 * heads * config.qk_head_dim  # before and after RoPE
    latent = 2 * config.kv_lora_rank + 2 * config.qk_rope_head_dim
    return 2 * width + query + latent + heads * (config.qk_head_dim + 2 * config.v_head_dim)


def mlp_values(config: ModelConfig, moe: bool) -> int:
    """Block input, its norm, and gate, up, silu(gate), product of each SwiGLU that the token visits."""
    width = config.hidden_size
    if not moe:
        return 2 * width + 4 * config.intermediate_size
    visited = config.num_experts_per_tok + config.n_shared_experts
    routed_copies = 2 * config.num_experts_per_tok * width  # gathered inputs, weighted outputs
    return 2 * width + routed_copies + 4 * visited * config.moe_intermediate_size + config.n_routed_experts


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A device under the efficiency model: seconds of one operation. `dtype`: of the matrix products."""

    hardware: Hardware
    efficiency: Efficiency
    dtype: str

    @property
    def value_bytes(self) -> int:
        """Bytes of an activation between operations: FP8 is used inside matrix products only."""
        return 4 if self.dtype == "float32" else 2

    @property
    def plain_bytes(self) -> int:
        """The same for plain kernels: autocast on a CPU leaves the residual stream, norms and softmax in fp32."""
        return 3 if self.hardware.kind == "cpu" and self.value_bytes == 2 else self.value_bytes

    @property
    def call(self) -> float:
        """Fixed seconds of one operation."""
        return self.hardware.op_seconds * self.efficiency.calls

    def stream(self, nbytes: float) -> float:
        """Reading or writing memory."""
        return nbytes / (self.hardware.memory_bandwidth * self.efficiency.bandwidth)

    def core(self, flops: float) -> float:
        """Attention cores; never in FP8."""
        dtype = "float32" if self.dtype == "float32" else "bfloat16"
        return flops / (self.hardware.peak(dtype) * self.efficiency.attention)

    def matmul(self, m: Matmul, tokens: float, tp: int = 1, ep: int = 1) -> float:
        """One product for `tokens` tokens of this device, its rows split over `tp` and its copies over `ep` devices.

        With experts spread over `ep` devices that each bring `tokens` tokens, every device still gets as many visits.
        """
        fp8 = self.dtype == "float8" and not m.kept and "float8" in self.hardware.matmul_flops
        dtype = "bfloat16" if self.dtype == "float8" and not fp8 else self.dtype
        visits, rows = tokens * m.visits, m.rows / tp
        touched = min(max(1.0, m.copies / ep), visits)  # a thin batch does not visit every expert
        moved = visits * (m.cols * DTYPE_BYTES[dtype] + rows * self.value_bytes)
        if fp8:
            moved += visits * m.cols * 3  # read in bfloat16, written in FP8, before the product reads it
        moved += touched * rows * m.cols * DTYPE_BYTES[dtype]
        calls = touched if self.hardware.kind == "cpu" else 1  # GPUs run the experts as one grouped product
        flops = 2.0 * visits * rows * m.cols
        return flops / (self.hardware.peak(dtype) * self.efficiency.matmul) + self.stream(moved) + calls * self.call

    def layer(self, config: ModelConfig, moe: bool, tokens: float, context: float, tp: int = 1, ep: int = 1) -> float:
        """Forward pass of one layer over `tokens` tokens that see `context` keys on average (expanded or GQA)."""
        products = sum(self.matmul(m, tokens, tp, ep) for m in layer_matmuls(config, moe))
        core = self.core(tokens * core_flops(config, context, form_of(config)) / tp)
        passes = 2.0 * self.efficiency.plain
        plain = self.stream(passes * tokens * touched_values(config, moe) * self.plain_bytes / tp)
        return products + core + plain + OPS_FORWARD * self.call

    def head(self, config: ModelConfig, tokens: float, tp: int = 1, fused: bool = False) -> float:
        """Logits and their softmax (fp32, written and read twice); `fused`: as a sampler does, whatever the device."""
        product = self.matmul(Matmul(config.vocab_size, config.hidden_size, kept=True), tokens, tp)
        passes = 1.0 if fused else self.efficiency.plain
        return product + self.stream(passes * 16.0 * tokens * config.vocab_size / tp)


def forward_seconds(
    speed: Speed, config: ModelConfig, tokens: float, context: float, *, mtp: bool = False, tp: int = 1, ep: int = 1
) -> float:
    """Forward pass of the whole model, logits of every token included; `mtp` adds its modules and their logits."""
    layers = sum(n * speed.layer(config, moe, tokens, context, tp, ep) for moe, n in layer_kinds(config, mtp).items())
    heads = 1 + (config.num_nextn_predict_layers if mtp else 0)
    joins = heads - 1
    joined = joins * speed.matmul(Matmul(config.hidden_size, 2 * config.hidden_size), tokens, tp) if joins else 0.0
    return layers + heads * speed.head(config, tokens, tp) + joined


def forward_flops(config: ModelConfig, context: float) -> float:
    """Operations of one token's forward pass, head included, MTP not: arch.count.flops_per_token without biases.

    Kept apart because it takes microseconds, where counting a checkpoint's 45,000 tensors takes a tenth of a second.
    """
    layers = sum(n * sum(m.flops for m in layer_matmuls(config, moe)) for moe, n in layer_kinds(config).items())
    return layers + 2 * config.vocab_size * config.hidden_size + attention_flops(config, context, form_of(config))


def mtp_flops(config: ModelConfig, context: float) -> float:
    """Forward operations of the MTP modules for one token: a layer, eh_proj and the head again, each."""
    modules = config.num_nextn_predict_layers
    if not modules:
        return 0.0
    deeper = replace(config, num_nextn_predict_layers=0)
    moe = config.is_moe(config.num_hidden_layers)
    products = sum(m.flops for m in layer_matmuls(deeper, moe))
    extra = 2 * config.hidden_size * (2 * config.hidden_size + config.vocab_size)
    return modules * (products + core_flops(config, context, form_of(config)) + extra)


def muon_flops(config: ModelConfig) -> float:
    """Operations of one Muon update: five Newton-Schulz steps on every hidden matrix."""
    total = 0.0
    for moe, n in layer_kinds(config, mtp=True).items():
        for m in layer_matmuls(config, moe):
            short, long = sorted((m.rows, m.cols))
            total += n * m.copies * 5 * (4.0 * short * short * long + 2.0 * short**3)
    return total
