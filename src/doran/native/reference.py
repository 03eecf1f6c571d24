"""The slow, obvious form of every native kernel, in plain torch.

Tests tie the two; machines without a compiler run these.
Legend: T tokens, H heads, G key/value heads, N rows, D width, K experts per token; R = T*K pairs of token
and expert, P rows that hold them grouped by expert.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last axis, in fp32, returned in x's dtype."""
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def rope(x_THR: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Rotate (first half, second half) pairs; cos and sin are (T, R/2)."""
    a, b = x_THR.float().chunk(2, -1)
    cos, sin = cos_TR[:, None], sin_TR[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x_THR.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, where the last axis holds [gate ; up]."""
    gate, up = gate_up.chunk(2, -1)
    return swiglu_pair(gate, up)


def swiglu_pair(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return F.silu(gate) * up


def expert_gather(x_TD: Tensor, rows_P: Tensor, place_R: Tensor, k: int) -> Tensor:
    """Row p of the result is the token of pair rows[p] (pairs are token-major: pair = token * k + choice)."""
    return x_TD[rows_P // k]


def expert_combine(y_PD: Tensor, place_R: Tensor, weight_TK: Tensor) -> Tensor:
    """sum_k weight[t, k] * y[place[t * k + k]], back in token order: (T, D)."""
    num_tokens, k = weight_TK.shape
    return (y_PD[place_R].view(num_tokens, k, -1).float() * weight_TK[..., None]).sum(1).to(y_PD.dtype)


def token_logprobs(logits_NV: Tensor, target_N: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability of each row's target (0 where target < 0) and each row's entropy, both fp32 (N,)."""
    logprobs = F.log_softmax(logits_NV.float() / temperature, -1)
    chosen = logprobs.gather(1, target_N.clamp(min=0)[:, None])[:, 0]
    return torch.where(target_N >= 0, chosen, 0.0), -(logprobs.exp() * logprobs).sum(-1)


def packed_attention(
    q1_THA: Tensor, q2_THB: Tensor, k1_TGA: Tensor, k2_TB: Tensor, v_TGV: Tensor, cu_seqlens: Tensor, scale: float
) -> Tensor:
    """Causal attention inside each sequence: scores q1.k1 + q2.k2, k2 shared by all heads; B may be 0 (plain GQA)."""
    heads, groups = q1_THA.shape[1], k1_TGA.shape[1]
    out = []
    bounds = cu_seqlens.tolist()
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        q1, q2, k1, k2, v = (x[start:end].float() for x in (q1_THA, q2_THB, k1_TGA, k2_TB, v_TGV))
        k1, v = (x.repeat_interleave(heads // groups, 1) for x in (k1, v))
        scores = torch.einsum("tha,sha->hts", q1, k1) + torch.einsum("thb,sb->hts", q2, k2)
        mask = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        weights = (scores * scale).masked_fill(~mask, float("-inf")).softmax(-1)
        out.append(torch.einsum("hts,shv->thv", weights, v))
    return torch.cat(out).to(q1_THA.dtype)


def mla_decode(
    q_NHW: Tensor, cache_SLW: Tensor, slots_N: Tensor, lens_N: Tensor, kv_lora_rank: int, scale: float
) -> Tensor:
    """Absorbed MLA for one new token a row: attend over cache[slot, :len] -> (N, H, kv_lora_rank).

    Values are the first kv_lora_rank columns.
    """
    longest = int(lens_N.max())
    rows = cache_SLW[slots_N, :longest].float()
    scores = torch.einsum("nhw,nlw->nhl", q_NHW.float(), rows) * scale
    outside = torch.arange(longest)[None] >= lens_N[:, None]
    weights = scores.masked_fill(outside[:, None], float("-inf")).softmax(-1)
    return torch.einsum("nhl,nlc->nhc", weights, rows[..., :kv_lora_rank]).to(q_NHW.dtype)
