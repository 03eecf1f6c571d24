"""FLOPs and seconds of the four kinds of work: training, scoring, prefill, decoding. Pure arithmetic on stated figures.

Compute takes FLOPs / (matmul peak * efficiency share). A decode step also streams the weights once,
whatever the batch, and pays a fixed overhead per layer; that is why small batches decode slowly and the longest answer
costs.
"""

from __future__ import annotations

from dataclasses import dataclass

from doran.arch.config import ModelConfig
from doran.arch.count import flops_per_token, parameters
from doran.plan.hardware import DTYPE_BYTES, Efficiency, Hardware


@dataclass(frozen=True)
class Work:
    """Tokens worked on, floating-point operations, and seconds."""

    tokens: int
    flops: float
    seconds: float

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.flops + other.flops, self.seconds + other.seconds)


NOTHING = Work(0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A model on a machine: turns amounts of tokens into Work."""

    config: ModelConfig
    hardware: Hardware
    efficiency: Efficiency
    dtype: str = "float32"

    def train(self, tokens: int, length: int, mtp: bool = False) -> Work:
        """Forward and backward (3x forward) over sequences of `length` tokens."""
        flops = 3.0 * tokens * (self._forward(length) + (self._mtp() if mtp else 0))
        return Work(tokens, flops, flops / self._rate)

    def score(self, tokens: int, length: int) -> Work:
        """One forward pass with logits, for log probabilities."""
        flops = float(tokens) * self._forward(length)
        return Work(tokens, flops, flops / self._rate)

    def decode(self, sequences: int, prompt: int, length: int, longest: int, max_batch: int) -> Work:
        """`sequences` completions of mean `length` (at most `longest`) after prompts of `prompt` tokens, batched.

        Continuous batching keeps the batch full until the queue is empty, then waits for the longest one.
        """
        batch = min(sequences, max_batch)
        tail = min(length * self.efficiency.longest_to_mean, longest)
        steps = length * (sequences / batch - 1) + tail
        flops = float(sequences) * length * flops_per_token(self.config, prompt + length // 2)
        compute = flops / (self._rate * self.efficiency.decode_share)
        return Work(sequences * length, flops, compute + steps * self._step_overhead())

    @property
    def _rate(self) -> float:
        """FLOP/s that training at this width reaches."""
        return self.hardware.peak(self.dtype) * self.efficiency.share(self.config.hidden_size)

    def _forward(self, length: int) -> int:
        return flops_per_token(self.config, (length + 1) // 2)

    def _mtp(self) -> int:
        """Forward FLOPs of the MTP modules per token: their own weights, without idle experts, and the head again."""
        config, counts = self.config, parameters(self.config)
        modules = config.num_nextn_predict_layers
        idle = modules * 3 * config.hidden_size * config.moe_intermediate_size
        idle *= max(config.n_routed_experts - config.num_experts_per_tok, 0)
        return 2 * (counts.mtp - idle + modules * config.vocab_size * config.hidden_size) if modules else 0

    def _step_overhead(self) -> float:
        """Seconds of a decode step whatever the batch. A batch visits about every expert, so all weights stream."""
        weight_bytes = parameters(self.config).total * DTYPE_BYTES.get(self.dtype, 4)
        stream = weight_bytes / (self.hardware.memory_bandwidth * self.efficiency.bandwidth_share)
        return stream + self.config.num_hidden_layers * self.efficiency.layer_overhead
