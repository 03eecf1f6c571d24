"""Grouped-query attention (Llama, Qwen), the projections only; latent attention is in mla.py.

What is attended to is the context's business (layers/attention.py). Attribute names are the checkpoint's.
"""

from __future__ import annotations

from torch import Tensor, nn

from doran.arch.config import ModelConfig
from doran.layers.attention import Attend
from doran.layers.norm import RMSNorm
from doran.layers.rope import RopeTable, apply_rope


class GroupedAttention(nn.Module):
    """Grouped-query attention; Qwen2 has biases on q, k, v, Qwen3 a norm on each head's q and k before RoPE."""

    def __init__(self, config: ModelConfig, layer: int, qk_norm: bool) -> None:
        super().__init__()
        self.layer, self.width, self.scale = layer, config.head_dim, config.softmax_scale
        d, kv = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(d, config.num_attention_heads * config.head_dim, bias=config.qkv_bias)
        self.k_proj = nn.Linear(d, kv, bias=config.qkv_bias)
        self.v_proj = nn.Linear(d, kv, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, d, bias=config.attention_bias)
        if qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.qk_norm = qk_norm

    def forward(self, h_TD: Tensor, rope: RopeTable, attend: Attend) -> Tensor:
        """(T, D) -> (T, D)."""
        q_THN, k_TKN, v_TKN = (p(h_TD).unflatten(-1, (-1, self.width)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.qk_norm:
            q_THN, k_TKN = self.q_norm(q_THN), self.k_norm(k_TKN)
        q_THN, k_TKN = apply_rope(q_THN, rope, False), apply_rope(k_TKN, rope, False)
        o_THN = attend.gqa(self.layer, q_THN, k_TKN, v_TKN, self.scale)
        return self.o_proj(o_THN.flatten(1))
