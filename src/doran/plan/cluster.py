"""One training step of a model on many devices: seconds by cause. The efficiency model plus traffic, closed form.

What the event simulation (simulate.py) plays out, this states in formulas: thousands of layouts can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from doran.arch.config import ModelConfig
from doran.plan.hardware import Efficiency, Hardware, standard
from doran.plan.kernels import Speed, forward_flops, forward_seconds, layer_kinds, layer_matmuls, mtp_flops
from doran.plan.layout import Layout, matmul_dtype, shard


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of one optimizer step by cause; what is hidden behind something else is not in it."""

    compute: float
    tensor_parallel: float
    experts: float
    bubble: float
    data_parallel: float
    optimizer: float
    uncounted: float  # the efficiency model's `realised`
    micro_batches: float
    tokens: int
    flops: float  # of the whole step, model FLOPs: recomputation is not counted
    devices: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.causes().values())

    @property
    def tokens_per_second(self) -> float:
        """Of all devices together."""
        return self.tokens / self.seconds

    def causes(self) -> dict[str, float]:
        """Cause -> seconds."""
        names = ("compute", "tensor_parallel", "experts", "bubble", "data_parallel", "optimizer", "uncounted")
        return {name: getattr(self, name) for name in names}

    def mfu(self, peak: float) -> float:
        """Share of `peak` FLOP/s (of one device) that the model's own FLOPs reach."""
        return self.flops / self.devices / self.seconds / peak


def again(config: ModelConfig, recompute: str) -> float:
    """Forward passes that the backward pass repeats: 1 in full, or the share of MLA's up-projections."""
    if recompute != "selective" or not config.is_mla:
        return 1.0 if recompute == "full" else 0.0
    repeated = total = 0.0
    for moe, n in layer_kinds(config).items():
        products = layer_matmuls(config, moe)
        total += n * sum(m.flops for m in products)
        repeated += n * sum(m.flops for m in products if m.cols in (config.q_lora_rank, config.kv_lora_rank))
    return repeated / total


def expert_bytes(config: ModelConfig, hardware: Hardware, ep: int, fp8: bool) -> tuple[float, float]:
    """(bytes between nodes, bytes inside a node) that one device sends for one token and expert layer, forward.

    A token goes at most once to each node it needs (V3 s3.2.2) and from there to its experts; FP8 out, BF16 back.
    """
    nodes = max(1, ep // hardware.per_node)
    top = config.num_experts_per_tok
    limit = min(nodes, config.topk_group if config.n_group > 1 else nodes)
    visited = limit * (1 - (1 - 1 / limit) ** top)  # distinct nodes when `top` experts fall on `limit` nodes
    there_and_back = config.hidden_size * ((1 if fp8 else 2) + 2)
    inside = top * (1 - 1 / min(ep, hardware.per_node)) if ep > 1 else 0.0
    return visited * (1 - 1 / nodes) * there_and_back, inside * there_and_back


def expert_seconds(
    config: ModelConfig, hardware: Hardware, efficiency: Efficiency, ep: int, tokens: float, fp8: bool
) -> float:
    """Dispatch and combine of one expert layer, forward, for `tokens` tokens a device. The two links work together."""
    if ep == 1:
        return 0.0
    between, inside = expert_bytes(config, hardware, ep, fp8)
    slower = max(between / hardware.network_bandwidth, inside / hardware.link_bandwidth)
    return tokens * slower / efficiency.link


def together(compute: float, traffic: float, overlap: float) -> float:
    """Two things side by side: the longer one, and what of the shorter one could not hide behind it."""
    return max(compute, traffic) + (1 - overlap) * min(compute, traffic)


def train_step(
    config: ModelConfig,
    hardware: Hardware,
    layout: Layout,
    *,
    sequences: int,
    length: int,
    precision: str = "bf16",
    mtp: bool = True,
    efficiency: Efficiency | None = None,
) -> Step:
    """One step on `sequences` sequences of `length` tokens, spread over the layout's replicas."""
    e = efficiency or standard(hardware)
    speed = Speed(hardware=hardware, efficiency=e, dtype=matmul_dtype(precision))
    tokens = layout.micro_sequences * length  # of one micro-batch
    micro_batches = max(1.0, sequences / (layout.dp * layout.micro_sequences))
    context = (length + 1) / 2
    forward = forward_seconds(speed, config, tokens, context, mtp=mtp, tp=layout.tp, ep=layout.ep) / layout.pp
    passes = (
        1.0 + e.backward + again(config, layout.recompute)
    )  # forward, backward of twice that, and what is run again
    traffic = _expert_traffic(config, hardware, e, layout, tokens, precision, mtp)
    if traffic:
        forward *= hardware.cores / (hardware.cores - min(e.comm_cores, hardware.cores - 1))
    hidden = e.overlap if layout.pipeline.hides_experts and layout.pp > 1 else 0.0
    experts = together(passes * forward, 2 * traffic, hidden) - passes * forward
    tensor = passes * _tensor_traffic(config, hardware, e, layout, tokens)
    busy = passes * forward + experts + tensor
    bubble = _bubble(layout, busy)
    exposed = _data_traffic(config, hardware, e, layout, micro_batches, precision, micro_batches * busy)
    optimizer = _optimizer(config, speed, layout)
    worked = micro_batches * busy + bubble
    whole = int(sequences * length)
    flops = 3.0 * whole * (forward_flops(config, context) + (mtp_flops(config, context) if mtp else 0))
    return Step(
        compute=micro_batches * passes * forward * e.slowdown,
        tensor_parallel=micro_batches * tensor,
        experts=micro_batches * experts,
        bubble=bubble,
        data_parallel=exposed,
        optimizer=optimizer,
        uncounted=worked * (1 / e.realised - 1),
        micro_batches=micro_batches,
        tokens=whole,
        flops=flops,
        devices=layout.devices,
    )


def _expert_traffic(
    config: ModelConfig, hardware: Hardware, e: Efficiency, layout: Layout, tokens: int, precision: str, mtp: bool
) -> float:
    """Seconds of dispatch and combine of one micro-batch on one stage, one direction (forward or backward)."""
    layers = layer_kinds(config, mtp).get(True, 0) / layout.pp
    return layers * expert_seconds(config, hardware, e, layout.ep, tokens, precision == "fp8")


def _tensor_traffic(config: ModelConfig, hardware: Hardware, e: Efficiency, layout: Layout, tokens: int) -> float:
    """Two gathers and two scatters a layer and pass (sequence parallel), on the critical path and never hidden."""
    if layout.tp == 1:
        return 0.0
    link = hardware.link_bandwidth if layout.tp <= hardware.per_node else hardware.network_bandwidth
    moved = 4 * tokens * config.hidden_size * 2 * (layout.tp - 1) / layout.tp
    return config.num_hidden_layers / layout.pp * moved / (link * e.link)


def _bubble(layout: Layout, busy: float) -> float:
    """Idle seconds of a step; a third of a micro-batch's time is forward, a third the backward's weight half."""
    if layout.pp == 1:
        return 0.0
    f = w = busy / 3
    return layout.pipeline.idle(layout.pp, layout.chunks, f, busy - f, w)


def _data_traffic(
    config: ModelConfig,
    hardware: Hardware,
    e: Efficiency,
    layout: Layout,
    micro_batches: float,
    precision: str,
    work: float,
) -> float:
    """Exposed seconds of gradient reduction and weight gathering over the data-parallel replicas."""
    held = shard(config, layout)
    expert_replicas = layout.dp * layout.tp // layout.ep
    replicated = held.shared * (layout.dp > 1) + held.experts * (expert_replicas > 1)
    if not replicated:
        return 0.0
    weight = 1 if precision == "fp8" else 2 if precision == "bf16" else 4
    once = replicated * (4 + weight)  # gradients out, weights back
    if layout.zero == 3:  # weights gathered for every forward and backward pass
        once = replicated * 4 + micro_batches * 2 * replicated * weight
    near = layout.dp * layout.tp <= hardware.per_node
    seconds = once / ((hardware.link_bandwidth if near else hardware.network_bandwidth) * e.link)
    return together(work, seconds, e.overlap) - work


def _optimizer(config: ModelConfig, speed: Speed, layout: Layout) -> float:
    held = shard(config, layout)
    share = layout.dp if layout.zero else 1
    return speed.stream(32.0 * held.total / share)
