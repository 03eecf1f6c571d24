"""The two attention layers: multi-head latent (DeepSeek) and grouped-query (Llama, Qwen). Projections only.

What is attended to is the context's business (layers/attention.py). Attribute names are the checkpoint's.
"""

from __future__ import annotations

from torch import Tensor, nn

from doran.arch.config import ModelConfig
from doran.layers.attention import Attend
from doran.layers.norm import RMSNorm
from doran.layers.rope import RopeTable, apply_rope

_INNER_EPS = 1e-6  # of the norms on the low-rank queries and latents: fixed in DeepSeek's code, whatever rms_norm_eps is


class LatentAttention(nn.Module):
    """MLA (DeepSeek-V3 s2.1.1): queries through q_lora_rank (or straight), keys and values through kv_lora_rank."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.config, self.scale = layer, config, config.softmax_scale
        d, heads, bias = config.hidden_size, config.num_attention_heads, config.attention_bias
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(d, heads * config.qk_head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(d, config.q_lora_rank, bias=bias)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, _INNER_EPS)
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * config.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(d, config.kv_lora_rank + config.qk_rope_head_dim, bias=bias)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, _INNER_EPS)
        self.kv_b_proj = nn.Linear(
            config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_head_dim), bias=False
        )
        self.o_proj = nn.Linear(heads * config.v_head_dim, d, bias=bias)

    def forward(self, h_TD: Tensor, rope: RopeTable, attend: Attend) -> Tensor:
        """(T, D) -> (T, D)."""
        c = self.config
        if c.q_lora_rank is None:
            q_TX = self.q_proj(h_TD)
        else:
            q_TX = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(h_TD)))
        q_THX = q_TX.unflatten(-1, (c.num_attention_heads, -1))
        q_nope_THN, q_pe_THR = q_THX.split((c.qk_nope_head_dim, c.qk_rope_head_dim), dim=-1)
        c_kv_TC, k_pe_TR = self.kv_a_proj_with_mqa(h_TD).split((c.kv_lora_rank, c.qk_rope_head_dim), dim=-1)
        q_pe_THR = apply_rope(q_pe_THR, rope, c.rope_interleave)
        k_pe_TR = apply_rope(k_pe_TR[:, None], rope, c.rope_interleave)[:, 0]
        c_kv_TC = self.kv_a_layernorm(c_kv_TC)
        o_THV = attend.mla(self.layer, q_nope_THN, q_pe_THR, c_kv_TC, k_pe_TR, self.kv_b_proj.weight, self.scale)
        return self.o_proj(o_THV.flatten(1))


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
