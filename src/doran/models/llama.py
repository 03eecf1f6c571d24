"""Llama 2 and 3: grouped-query attention, optional biases everywhere."""

from __future__ import annotations

from doran.arch.config import ModelConfig
from doran.layers.mla import GroupedAttention
from doran.layers.moe import SwiGLU
from doran.models.decoder import DecoderLayer


def make_layer(config: ModelConfig, layer: int) -> DecoderLayer:
    """Layer `layer`."""
    attention = GroupedAttention(config, layer, qk_norm=False)
    return DecoderLayer(config, attention, SwiGLU(config.hidden_size, config.intermediate_size, config.mlp_bias))
