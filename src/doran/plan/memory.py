"""Bytes a stage needs, by part. Counts what the loops keep; the allocator's slack and temporaries are one stated share.

Activations are every input that a backward pass reads again; with activation checkpointing the layers' inputs, and all
of them for the one layer that is being computed again.
"""

from __future__ import annotations

from dataclasses import dataclass

from doran.arch.config import ModelConfig
from doran.arch.count import cache_bytes_per_token, logit_rows, parameters
from doran.plan.kernels import touched_values

RUNTIME = 300 * 2**20  # Python, torch, its libraries and their kernels: 236 MiB after import, the rest once in use
SLACK = 1.15  # allocator and temporaries, on top of what is counted
ROLLOUT_BYTES = 40  # per generated token: id, three log probabilities, mask, advantage, as the trainer batches them
OPTIMIZER_VALUES = {"adamw": 2.0, "adamw8bit": 2 * (1 / 4 + 1 / 256), "muon": 1.0}
"""fp32 values kept per parameter (Muon's share under AdamW and 8-bit AdamW's small tensors are ignored)."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes by part. Activations and cache are never needed at the same time, so the peak counts the larger one."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    reference: int = 0
    rollouts: int = 0
    activations: int = 0
    cache: int = 0
    runtime: int = RUNTIME

    @property
    def peak(self) -> int:
        """Most bytes at one time, slack included."""
        lasting = self.weights + self.gradients + self.optimizer + self.reference + self.rollouts
        return self.runtime + round(SLACK * (lasting + max(self.activations, self.cache)))

    def parts(self) -> dict[str, int]:
        """Name -> bytes, the parts that are not zero."""
        return {name: value for name, value in vars(self).items() if value}


def stored_parameters(config: ModelConfig) -> int:
    """Parameters in memory: the main model and its MTP modules."""
    counts = parameters(config)
    return counts.total + counts.mtp


def activation_values(config: ModelConfig, checkpointing: bool = False) -> int:
    """Values that one token leaves behind for the backward pass, all layers, logits not included."""
    blocks = config.num_hidden_layers + config.num_nextn_predict_layers
    if checkpointing:
        return (blocks + 1) * config.hidden_size + max(touched_values(config, config.is_moe(i)) for i in range(blocks))
    return sum(touched_values(config, config.is_moe(layer)) for layer in range(blocks)) + config.hidden_size


def activation_bytes(
    config: ModelConfig, tokens: int, dtype_bytes: int = 4, logits_at_once: int | None = None,
    checkpointing: bool = False,
) -> int:  # fmt: skip
    """Bytes of a training step over `tokens` tokens (one micro-batch), at most `logits_at_once` rows of logits.

    Logits count as fp32, twice: themselves and their gradient. Unless told, as many rows as training holds.
    """
    rows = min(tokens, logits_at_once or logit_rows(config.vocab_size))
    return tokens * activation_values(config, checkpointing) * dtype_bytes + 2 * 4 * rows * config.vocab_size


def training_memory(
    config: ModelConfig,
    micro_tokens: int,
    *,
    dtype_bytes: int = 4,
    optimizer: str = "adamw",
    logits_at_once: int | None = None,
    activation_checkpointing: bool = False,
) -> Memory:
    """A training step: fp32 weights, gradients and optimizer state; activations in the compute dtype.

    `dtype_bytes` of 2 (bf16) adds a second copy of the weights beside the fp32 masters.
    """
    stored = stored_parameters(config)
    return Memory(
        weights=stored * (4 if dtype_bytes == 4 else 4 + dtype_bytes),
        gradients=stored * 4,
        optimizer=round(stored * 4 * OPTIMIZER_VALUES[optimizer]),
        activations=activation_bytes(config, micro_tokens, dtype_bytes, logits_at_once, activation_checkpointing),
    )


def cache_bytes(config: ModelConfig, sequences: int, length: int, dtype_bytes: int = 4) -> int:
    """The KV or latent cache of `sequences` running requests of `length` tokens each."""
    return sequences * length * cache_bytes_per_token(config, dtype_bytes)
