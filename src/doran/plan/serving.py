"""Serving a model: tokens a second, users at a speed, memory, price of a million tokens. Closed form, no torch.

A model with experts is spread by expert parallelism (attention replicated), another by tensor parallelism.
"""

from __future__ import annotations

from dataclasses import dataclass

from doran.arch.config import ModelConfig
from doran.arch.count import cache_bytes_per_token
from doran.base.errors import ConfigError
from doran.plan.cluster import expert_seconds, together
from doran.plan.hardware import DTYPE_BYTES, GPU, Efficiency, Hardware
from doran.plan.kernels import OPS_FORWARD, Speed, core_flops, form_of, forward_seconds, layer_kinds, layer_matmuls
from doran.plan.layout import GPU_RUNTIME, matmul_dtype
from doran.plan.memory import RUNTIME, Memory

PREFILL_TOKENS = 8192  # tokens of one prefill pass on one device
DRAFT_ACCEPTED = 0.85  # of the MTP module's second tokens (V3 s5.4.3: 85 to 90%)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A model on `devices` devices that work as one instance. `drafts`: the MTP module proposes each second token."""

    config: ModelConfig
    hardware: Hardware
    devices: int = 1
    precision: str = "bf16"
    drafts: bool = False
    efficiency: Efficiency = GPU

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ConfigError(f"serving: {self.devices} devices", hint="give one or more")
        if self.drafts and not self.config.num_nextn_predict_layers:
            raise ConfigError("serving: this model has no MTP module to draft with", hint="leave drafts out")

    @property
    def ep(self) -> int:
        """Devices that share the experts."""
        return self.devices if self.config.n_routed_experts else 1

    @property
    def tp(self) -> int:
        """Devices that share every matrix."""
        return 1 if self.config.n_routed_experts else self.devices

    @property
    def speed(self) -> Speed:
        """One device."""
        return Speed(hardware=self.hardware, efficiency=self.efficiency, dtype=matmul_dtype(self.precision))

    def weight_bytes(self) -> float:
        """Weights on one device."""
        kinds = layer_kinds(self.config, mtp=self.drafts)
        each = DTYPE_BYTES[matmul_dtype(self.precision)]
        spread = lambda m: m.parameters / (self.ep if m.copies > 1 else self.tp)  # noqa: E731
        layers = sum(n * sum(spread(m) for m in layer_matmuls(self.config, moe)) for moe, n in kinds.items())
        tables = (1 if self.config.tie_word_embeddings else 2) * self.config.vocab_size * self.config.hidden_size
        return layers * each + tables / self.tp * max(each, 2)

    def cache_per_token(self) -> float:
        """Cache bytes of one token on one device; MLA's latent cannot be split over tensor-parallel devices."""
        nbytes = cache_bytes_per_token(self.config, 4 if self.precision == "fp32" else 2)
        return nbytes if self.config.is_mla else nbytes / min(self.tp, self.config.num_key_value_heads)

    def memory(self, batch: float, context: float) -> Memory:
        """Bytes of one device with `batch` sequences (its own share, under expert parallelism) of `context` tokens."""
        runtime = RUNTIME if self.hardware.kind == "cpu" else GPU_RUNTIME
        cache = round(batch * context * self.cache_per_token())
        return Memory(weights=round(self.weight_bytes()), cache=cache, runtime=runtime)

    def step_seconds(self, batch: float, context: float) -> float:
        """One decode step with `batch` sequences a device (tensor parallel: of all together)."""
        rows = batch * (2 if self.drafts else 1)
        speed, form = self.speed, form_of(self.config, decoding=True)
        cache = speed.stream(batch * context * self.cache_per_token()) / self.config.num_hidden_layers
        core = speed.core(rows * core_flops(self.config, context, form) / self.tp)
        core = max(core, cache)  # one fused kernel: bound by its operations or by the cache it reads
        compute = speed.head(self.config, rows, self.tp)
        for moe, n in layer_kinds(self.config, mtp=self.drafts).items():
            products = sum(speed.matmul(m, rows, self.tp, self.ep) for m in layer_matmuls(self.config, moe))
            ops = OPS_FORWARD * self.hardware.op_seconds * (1 if self.hardware.kind == "cpu" else 0.25)  # fused, graphs
            compute += n * (products + core + ops)
        return self._real(together(compute, self._exchange(rows), self.efficiency.overlap) + self._reduce(rows))

    def tokens_per_step(self) -> float:
        """Tokens a sequence gains in a step."""
        return 1 + DRAFT_ACCEPTED if self.drafts else 1.0

    def decode(self, batch: float, context: float) -> float:
        """Tokens a second of the whole instance, `batch` sequences a device."""
        together_batch = batch * (self.devices if self.ep > 1 else 1)
        return together_batch * self.tokens_per_step() / self.step_seconds(batch, context)

    def users(self, context: float, tokens_per_second: float) -> int:
        """Sequences a device (tensor parallel: all together) holds while each gets `tokens_per_second`; 0: none."""
        limit = self.tokens_per_step() / tokens_per_second

        def works(batch: int) -> bool:
            fits = self.memory(batch, context).peak <= self.hardware.memory
            return fits and self.step_seconds(batch, context) <= limit

        if not works(1):
            return 0
        low, high = 1, 2
        while works(high) and high < 1 << 20:
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if works(middle) else (low, middle)
        return low

    def prefill(self, length: float) -> float:
        """Prompt tokens a second of the whole instance, prompts of `length` tokens, nothing cached."""
        tokens = max(PREFILL_TOKENS, length)
        seconds = forward_seconds(self.speed, self.config, tokens, (length + 1) / 2, tp=self.tp, ep=self.ep)
        seconds -= self.speed.head(self.config, tokens, self.tp) * (1 - 1 / length)  # logits of the last row only
        if self.ep > self.hardware.per_node:
            seconds *= self.hardware.cores / (self.hardware.cores - self.efficiency.comm_cores)
        traffic = self._layers() * expert_seconds(
            self.config, self.hardware, self.efficiency, self.ep, tokens, self.precision == "fp8"
        )
        busy = together(seconds, traffic, self.efficiency.overlap) + self._reduce(tokens)
        return (self.devices if self.ep > 1 else 1) * tokens / self._real(busy)

    def _layers(self) -> int:
        return layer_kinds(self.config, mtp=self.drafts).get(True, 0)

    def _exchange(self, rows: float) -> float:
        """Dispatch and combine of a decode step: every copy goes straight to its expert's device."""
        if self.ep == 1:
            return 0.0
        hw, config = self.hardware, self.config
        moved = rows * config.num_experts_per_tok * config.hidden_size * ((1 if self.precision == "fp8" else 2) + 2)
        away = 1 - hw.per_node / self.ep if self.ep > hw.per_node else 0.0
        link = max(moved * away / hw.network_bandwidth, moved * (1 - away) / hw.link_bandwidth) / self.efficiency.link
        wait = 2 * (self.efficiency.exchange_seconds if away else self.hardware.op_seconds)
        return self._layers() * (link + wait)

    def _reduce(self, rows: float) -> float:
        """Tensor parallel sums: two a layer, on the critical path."""
        if self.tp == 1:
            return 0.0
        moved = 2 * 2 * rows * self.config.hidden_size * 2 * (self.tp - 1) / self.tp
        seconds = moved / (self.hardware.link_bandwidth * self.efficiency.link) + 2 * 2 * self.hardware.op_seconds
        return self.config.num_hidden_layers * seconds

    def _real(self, seconds: float) -> float:
        return seconds / self.efficiency.realised * self.efficiency.slowdown


def price_per_million(usd_per_hour: float, devices: int, tokens_per_second: float) -> float:
    """USD for a million tokens of an instance that is always full."""
    return usd_per_hour * devices / 3600 / tokens_per_second * 1e6
