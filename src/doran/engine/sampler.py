"""From logits to tokens: temperature, top-k, top-p, min-p, then an inverse CDF with one uniform per row.

Rows never look at each other, and a row's token depends on its logits, its settings and its uniform alone: that is what
makes a completion independent of its batch. It holds no random state and knows no requests.

Legend: N rows, V vocab_size, K candidates (sorted, likeliest first).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CANDIDATES = 1024  # likeliest tokens looked at before a full sort; the full sort is needed only by flat distributions


@dataclass
class RowParams:
    """Sampling settings as columns, one entry per row, and what the whole batch can skip."""

    temperature_N: Tensor  # float32
    top_k_N: Tensor  # int64
    top_p_N: Tensor  # float32
    min_p_N: Tensor  # float32
    any_greedy: bool = True
    any_cuts: bool = True

    def rows(self, which: slice) -> RowParams:
        """Some of the rows, as views."""
        return RowParams(
            self.temperature_N[which],
            self.top_k_N[which],
            self.top_p_N[which],
            self.min_p_N[which],
            self.any_greedy,
            self.any_cuts,
        )


def sample(logits_NV: Tensor, params: RowParams, uniform_N: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row: (tokens_N int64, logprobs_N float32).

    `uniform_N` in [0, 1), float64. logprobs are at the sampling temperature and before any cut (temperature 1 where it
    is 0). NaN logits give a valid token and a NaN logprob, for the caller to notice.
    """
    logits_NV = logits_NV.float()
    temperature_N = params.temperature_N
    if params.any_greedy:
        temperature_N = torch.where(temperature_N == 0, 1.0, temperature_N)
    logprobs_NV = torch.log_softmax(logits_NV / temperature_N[:, None], dim=-1)
    probs_NV = logprobs_NV.exp()
    if params.any_cuts:
        probs_NV = cut(probs_NV, params)
    tokens_N = inverse_cdf(probs_NV, uniform_N)
    if params.any_greedy:
        tokens_N = torch.where(params.temperature_N == 0, logits_NV.argmax(-1), tokens_N)
    return tokens_N, logprobs_NV.gather(1, tokens_N[:, None])[:, 0]


def inverse_cdf(probs_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """The first token whose cumulative probability exceeds uniform * total; never one of probability 0.

    In token id order, so that a row with cuts and the same row without map a uniform alike. Rows need not sum to 1.
    """
    cdf_NV = probs_NV.cumsum(-1)  # float32 storage; torch's CPU kernel accumulates in float64
    total_N1 = cdf_NV[:, -1:]
    target_N1 = (uniform_N[:, None] * total_N1).to(cdf_NV.dtype)
    target_N1 = torch.minimum(target_N1, torch.nextafter(total_N1, torch.zeros_like(total_N1)))  # rounding up to total
    tokens_N = torch.searchsorted(cdf_NV, target_N1, right=True)[:, 0]
    return tokens_N.clamp_(max=probs_NV.shape[1] - 1)  # only NaN rows get here past the end


def cut(probs_NV: Tensor, params: RowParams) -> Tensor:
    """probs_NV with the tokens that top_k, top_p and min_p remove set to 0 (not renormalised).

    All three keep a prefix of the tokens in falling order of probability (ties: lowest id first), so one sort and the
    shortest prefix serve them all. The likeliest token always stays.
    """
    num_tokens = probs_NV.shape[1]
    if num_tokens > CANDIDATES:
        likely_NK, ids_NK = _likeliest(probs_NV, CANDIDATES)
        kept_N = _prefix(likely_NK, params)
        sure_N = (likely_NK > likely_NK[:, -1:]).sum(-1)  # beyond these, topk broke ties as it liked
        if bool((kept_N <= sure_N).all()) and bool((params.top_k_N <= CANDIDATES).all()):
            return _keep(probs_NV, likely_NK, ids_NK, kept_N)
    sorted_NV, ids_NV = torch.sort(probs_NV, dim=-1, descending=True, stable=True)
    return _keep(probs_NV, sorted_NV, ids_NV, _prefix(sorted_NV, params))


def _likeliest(probs_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest tokens in falling order, ties lowest id first (topk alone promises no order among ties)."""
    ids_NK = probs_NV.topk(k, dim=-1, sorted=False).indices.sort(-1).values
    sorted_NK, order_NK = probs_NV.gather(1, ids_NK).sort(dim=-1, descending=True, stable=True)
    return sorted_NK, ids_NK.gather(1, order_NK)


def _prefix(sorted_NK: Tensor, params: RowParams) -> Tensor:
    """How many of the sorted tokens survive every cut; an int64 count >= 1 per row."""
    top_k_N = torch.where(params.top_k_N > 0, params.top_k_N, sorted_NK.shape[1])
    rank_K = torch.arange(sorted_NK.shape[1], device=sorted_NK.device)
    in_top_k_NK = rank_K < top_k_N[:, None]
    cdf_NK = sorted_NK.cumsum(-1)
    # top_k limits the total that top_p is a share of; without top_k the total is the whole distribution's, which is 1.
    last_N1 = (top_k_N[:, None] - 1).clamp(max=sorted_NK.shape[1] - 1)
    total_N1 = torch.where(params.top_k_N[:, None] > 0, cdf_NK.gather(1, last_N1), 1.0)
    before_NK = torch.nn.functional.pad(cdf_NK[:, :-1], (1, 0))
    in_top_p_NK = (before_NK < params.top_p_N[:, None] * total_N1) | (params.top_p_N[:, None] >= 1)
    in_min_p_NK = sorted_NK >= params.min_p_N[:, None] * sorted_NK[:, :1]
    kept_NK = in_top_k_NK & in_top_p_NK & in_min_p_NK
    return kept_NK.long().cumprod(-1).sum(-1).clamp_(min=1)


def _keep(probs_NV: Tensor, sorted_NK: Tensor, ids_NK: Tensor, kept_N: Tensor) -> Tensor:
    rank_K = torch.arange(sorted_NK.shape[1], device=sorted_NK.device)
    survivors_NK = sorted_NK.masked_fill(rank_K >= kept_N[:, None], 0.0)
    return torch.zeros_like(probs_NV).scatter_(1, ids_NK, survivors_NK)
