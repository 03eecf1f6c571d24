"""Qwen2 and Qwen2.5: grouped-query attention with biases on q, k and v."""

from __future__ import annotations

from torch import nn

from doran.arch.config import ModelConfig
from doran.layers.gqa import GroupedAttention
from doran.layers.moe import SwiGLU


def make_parts(config: ModelConfig, layer: int) -> tuple[nn.Module, nn.Module]:
    """(self_attn, mlp) of layer `layer`."""
    mlp = SwiGLU(config.hidden_size, config.intermediate_size, config.mlp_bias)
    return GroupedAttention(config, layer, qk_norm=False), mlp
