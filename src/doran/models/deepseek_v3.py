"""DeepSeek-V3 and R1: latent attention, experts after the first dense layers."""

from __future__ import annotations

from torch import nn

from doran.arch.config import ModelConfig
from doran.layers.mla import LatentAttention
from doran.layers.moe import MoE, SwiGLU


def make_parts(config: ModelConfig, layer: int) -> tuple[nn.Module, nn.Module]:
    """(self_attn, mlp) of layer `layer`; MTP modules take the numbers after the last."""
    mlp: nn.Module = (
        MoE(config, layer) if config.is_moe(layer) else SwiGLU(config.hidden_size, config.intermediate_size)
    )
    return LatentAttention(config, layer), mlp
