"""FLOPs and seconds of the four kinds of work on one device: training, scoring, prefill, decoding. Pure arithmetic.

The operations and their time come from kernels.py. A decode step also streams the weights once, whatever the batch, and
reads the cache of every running sequence; that is why small batches decode slowly and the longest answer costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from doran.arch.config import ModelConfig
from doran.arch.count import Counts, cache_bytes_per_token, flops_per_token, parameters
from doran.plan.hardware import DTYPE_BYTES, Efficiency, Hardware
from doran.plan.kernels import (
    OPS_FORWARD,
    Speed,
    core_flops,
    form_of,
    forward_seconds,
    layer_kinds,
    layer_matmuls,
    mtp_flops,
    muon_flops,
    touched_values,
)

BACKWARD = 2.0  # a backward pass has the operations of two forward passes


@dataclass(frozen=True)
class Work:
    """Tokens worked on, floating-point operations, and seconds."""

    tokens: int
    flops: float
    seconds: float

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.flops + other.flops, self.seconds + other.seconds)

    def __mul__(self, times: float) -> Work:
        return Work(round(self.tokens * times), self.flops * times, self.seconds * times)


NOTHING = Work(0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A model on one device: turns amounts of tokens into Work."""

    config: ModelConfig
    hardware: Hardware
    efficiency: Efficiency
    dtype: str = "float32"

    @cached_property
    def counts(self) -> Counts:
        """The model's parameters."""
        return parameters(self.config)

    @cached_property
    def speed(self) -> Speed:
        """The device in this dtype."""
        return Speed(hardware=self.hardware, efficiency=self.efficiency, dtype=self.dtype)

    def train(
        self, tokens: int, length: int, mtp: bool | float = False, micro_tokens: int | None = None,
        checkpointing: bool = False,
    ) -> Work:  # fmt: skip
        """Forward and backward (3x forward) over sequences of `length` tokens, `micro_tokens` at a time.

        `mtp`: the share of the tokens that also train the MTP modules. `checkpointing`: one more forward; its FLOPs are
        no model FLOPs. The optimizer is not in it: see `optimize`.
        """
        context, share = (length + 1) / 2, float(mtp) if self.config.num_nextn_predict_layers else 0.0
        forward = flops_per_token(self.config, round(context)) + share * mtp_flops(self.config, context)
        flops = (1 + BACKWARD) * tokens * forward
        passes = 1 + self.efficiency.backward + checkpointing
        return Work(tokens, flops, passes * self._passes(tokens, context, micro_tokens, share))

    def optimize(self, steps: int, optimizer: str = "adamw") -> Work:
        """`steps` updates of all weights: fp32 weight, gradient and moments read and written once each."""
        stored = self.counts.total + self.counts.mtp
        seconds, flops = self.speed.stream(32.0 * stored), 10.0 * stored
        if optimizer == "muon":
            newton = muon_flops(self.config)
            flops += newton
            seconds += newton / (self.hardware.peak(self.dtype) * self.efficiency.matmul)
        return Work(0, flops * steps, self._real(seconds) * steps)

    def score(self, tokens: int, length: int, micro_tokens: int | None = None) -> Work:
        """One forward pass with logits, for log probabilities."""
        flops = float(tokens) * flops_per_token(self.config, (length + 1) // 2)
        return Work(tokens, flops, self._passes(tokens, (length + 1) / 2, micro_tokens, 0.0))

    def forward_bytes(self, tokens: int) -> int:
        """Bytes of one forward pass that keeps nothing: the widest layer's values and the logits."""
        widest = max(touched_values(self.config, moe) for moe in layer_kinds(self.config))
        return tokens * (widest * self.speed.value_bytes + 8 * self.config.vocab_size)

    def decode(self, sequences: int, prompt: int, length: int, longest: int, max_batch: int) -> Work:
        """`sequences` completions of mean `length` (at most `longest`) after prompts of `prompt` tokens, batched.

        Continuous batching keeps the batch full until the queue is empty; then it thins out until the longest is done.
        """
        batch = min(sequences, max_batch)
        tail = min(length * self.efficiency.longest_to_mean, longest)
        context = prompt + length / 2
        flops = float(sequences) * length * flops_per_token(self.config, round(context))
        full = length * (sequences / batch - 1)  # steps with a full batch, then `length` batch-steps spread over `tail`
        thin = batch * length / tail if tail else batch
        seconds = full * self.decode_step(batch, context) + tail * self.decode_step(thin, context)
        return Work(sequences * length, flops, seconds)

    def decode_step(self, batch: float, context: float) -> float:
        """Seconds to make one token for each of `batch` sequences that see `context` keys."""
        config, speed = self.config, self.speed
        form, value = form_of(config, decoding=True), max(2, DTYPE_BYTES[self.dtype])
        cache = speed.stream(batch * context * cache_bytes_per_token(config, value)) / config.num_hidden_layers
        core = max(cache, speed.core(batch * core_flops(config, context, form)))  # fused: bound by one of the two
        seconds = speed.head(config, batch, fused=True)
        for moe, n in layer_kinds(config).items():
            products = sum(speed.matmul(m, batch) for m in layer_matmuls(config, moe))
            seconds += n * (products + core + OPS_FORWARD * speed.call)
        return self._real(seconds)

    def _passes(self, tokens: float, context: float, micro_tokens: int | None, mtp: float) -> float:
        """Seconds of forward passes over `tokens` tokens, `micro_tokens` at a time."""
        if tokens <= 0:
            return 0.0
        at_once = min(tokens, micro_tokens or tokens)
        once = forward_seconds(self.speed, self.config, at_once, context)
        if mtp:
            rows = at_once * mtp
            with_mtp, without = (forward_seconds(self.speed, self.config, rows, context, mtp=m) for m in (True, False))
            once += with_mtp - without
        return self._real(once) * tokens / at_once

    def _real(self, seconds: float) -> float:
        return seconds / self.efficiency.realised * self.efficiency.slowdown
