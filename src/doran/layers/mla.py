"""Multi-head latent attention (DeepSeek), the projections only; grouped-query attention is in gqa.py.

What is attended to is the context's business (layers/attention.py). Attribute names are the checkpoint's.
"""

from __future__ import annotations

from torch import Tensor, nn

from doran.arch.config import ModelConfig
from doran.layers.attention import Attend
from doran.layers.lora import whole_weight
from doran.layers.norm import RMSNorm
from doran.layers.rope import RopeTable, apply_rope

# Of the norms on the low-rank queries and latents: fixed in DeepSeek's code, whatever rms_norm_eps is.
_INNER_EPS = 1e-6


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
        o_THV = attend.mla(self.layer, q_nope_THN, q_pe_THR, c_kv_TC, k_pe_TR, whole_weight(self.kv_b_proj), self.scale)
        return self.o_proj(o_THV.flatten(1))
