"""From logits to tokens: temperature, top-k, top-p, min-p, then an inverse CDF with one uniform per row.

Rows never look at each other, and a row's token depends on its logits, its settings and its uniform alone: that is what
makes a completion independent of its batch. It holds no random state and knows no requests.

Legend: N rows, V vocab_size, K candidates (sorted, likeliest first).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from doran.engine.request import SamplingParams

CANDIDATES = (64, 1024)  # how many of the likeliest tokens a cut looks at before it sorts the whole row


@dataclass
class RowParams:
    """Sampling settings as columns, one entry per row, and what the whole batch can skip."""

    temperature_N: Tensor  # float32
    top_k_N: Tensor  # int64
    top_p_N: Tensor  # float32
    min_p_N: Tensor  # float32
    any_greedy: bool = True
    any_cuts: bool = True

    @classmethod
    def of(cls, params: Sequence[SamplingParams]) -> RowParams:
        """One row for each."""
        made = cls(
            torch.tensor([p.temperature for p in params]),
            torch.tensor([p.top_k for p in params]),
            torch.tensor([p.top_p for p in params]),
            torch.tensor([p.min_p for p in params]),
        )
        made.skip_what_none_asks(params)
        return made

    def put(self, first: int, params: Sequence[SamplingParams]) -> None:
        """These requests in rows first, first + 1, ...; `any_greedy` and `any_cuts` stay as they are."""
        new, where = RowParams.of(params), slice(first, first + len(params))
        self.temperature_N[where], self.top_k_N[where] = new.temperature_N, new.top_k_N
        self.top_p_N[where], self.min_p_N[where] = new.top_p_N, new.min_p_N

    def skip_what_none_asks(self, params: Sequence[SamplingParams]) -> None:
        """Set `any_greedy` and `any_cuts` for the requests that may run: what none asks of the sampler is skipped."""
        self.any_greedy = any(p.temperature == 0 for p in params)
        self.any_cuts = any(p.cuts for p in params)

    @property
    def cuts_N(self) -> Tensor:
        """Which rows lose tokens to a cut; greedy rows need none."""
        cuts_N = (self.top_k_N > 0) | (self.top_p_N < 1) | (self.min_p_N > 0)
        return cuts_N & (self.temperature_N > 0)

    def rows(self, which: slice | Tensor) -> RowParams:
        """Some of the rows; views where `which` is a slice."""
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
    scaled_NV = logits_NV.float()
    temperature_N = params.temperature_N
    if params.any_greedy:
        temperature_N = torch.where(temperature_N == 0, 1.0, temperature_N)
    scaled_NV = scaled_NV / temperature_N[:, None]
    scaled_NV -= scaled_NV.amax(-1, keepdim=True)
    weights_NV = scaled_NV.exp()  # probabilities up to a factor: one pass less than a softmax, and the CDF has the sum
    cdf_NV = weights_NV.cumsum(-1)
    log_total_N = cdf_NV[:, -1].log()
    if params.any_cuts:
        cdf_NV = cut(weights_NV, params).cumsum(-1)
    tokens_N = inverse_cdf(cdf_NV, uniform_N)
    if params.any_greedy:
        tokens_N = torch.where(params.temperature_N == 0, logits_NV.argmax(-1), tokens_N)
    return tokens_N, scaled_NV.gather(1, tokens_N[:, None])[:, 0] - log_total_N


def inverse_cdf(cdf_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """The first token whose cumulative weight exceeds uniform * total; never one of weight 0.

    Weights are summed in token id order and need no norming, so a row with cuts and one without map a uniform alike.
    (torch's cumsum keeps its running sum in float64 and stores float32.)
    """
    total_N1 = cdf_NV[:, -1:]
    target_N1 = (uniform_N[:, None] * total_N1).to(cdf_NV.dtype)
    target_N1 = torch.minimum(target_N1, torch.nextafter(total_N1, torch.zeros_like(total_N1)))  # rounding up to total
    tokens_N = torch.searchsorted(cdf_NV, target_N1, right=True)[:, 0]
    return tokens_N.clamp_(max=cdf_NV.shape[1] - 1)  # only NaN rows get here past the end


def cut(weights_NV: Tensor, params: RowParams) -> Tensor:
    """weights_NV (probabilities up to a factor) with 0 for the tokens that top_k, top_p and min_p remove.

    All three keep a prefix of the tokens in falling order of probability (ties: lowest id first), so one sort and the
    shortest prefix serve them all. The likeliest token always stays. Most rows are decided by a few likely tokens; only
    flat ones go on to more of them, and at last to a sort of the whole row.
    """
    num_tokens, left_N = weights_NV.shape[1], params.cuts_N.nonzero()[:, 0]
    cut_NV, total_N1 = weights_NV.clone(), weights_NV.sum(-1, keepdim=True)
    for k in (*(c for c in CANDIDATES if c < num_tokens), num_tokens):
        if not len(left_N):
            break
        some, rows_NV = params.rows(left_N), weights_NV[left_N]
        likely_NK, ids_NK = _likeliest(rows_NV, k)
        kept_N = _prefix(likely_NK, total_N1[left_N], some)
        sure_N = (likely_NK > likely_NK[:, -1:]).sum(-1)  # beyond these, topk broke ties as it liked
        decided_N = (kept_N <= sure_N) & (some.top_k_N <= k) | (k == num_tokens)
        rank_K = torch.arange(k, device=weights_NV.device)
        survivors_NK = likely_NK.masked_fill(rank_K >= kept_N[:, None], 0.0)
        cut_NV[left_N] = torch.zeros_like(rows_NV).scatter_(1, ids_NK, survivors_NK)  # the undecided: again next time
        left_N = left_N[~decided_N]
    return cut_NV


def _likeliest(weights_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest tokens in falling order, ties lowest id first (topk alone promises no order among ties)."""
    if k == weights_NV.shape[1]:
        return torch.sort(weights_NV, dim=-1, descending=True, stable=True)
    ids_NK = weights_NV.topk(k, dim=-1, sorted=False).indices.sort(-1).values
    sorted_NK, order_NK = weights_NV.gather(1, ids_NK).sort(dim=-1, descending=True, stable=True)
    return sorted_NK, ids_NK.gather(1, order_NK)


def _prefix(sorted_NK: Tensor, total_N1: Tensor, params: RowParams) -> Tensor:
    """How many of the sorted tokens survive every cut; an int64 count >= 1 per row."""
    top_k_N = torch.where(params.top_k_N > 0, params.top_k_N, sorted_NK.shape[1])
    rank_K = torch.arange(sorted_NK.shape[1], device=sorted_NK.device)
    in_top_k_NK = rank_K < top_k_N[:, None]
    cdf_NK = sorted_NK.cumsum(-1)
    # With top_k, top_p is a share of what top_k keeps; without, of the whole row.
    last_N1 = (top_k_N[:, None] - 1).clamp(max=sorted_NK.shape[1] - 1)
    total_N1 = torch.where(params.top_k_N[:, None] > 0, cdf_NK.gather(1, last_N1), total_N1)
    before_NK = torch.nn.functional.pad(cdf_NK[:, :-1], (1, 0))
    in_top_p_NK = (before_NK < params.top_p_N[:, None] * total_N1) | (params.top_p_N[:, None] >= 1)
    in_min_p_NK = sorted_NK >= params.min_p_N[:, None] * sorted_NK[:, :1]
    kept_NK = in_top_k_NK & in_top_p_NK & in_min_p_NK
    return kept_NK.long().cumprod(-1).sum(-1).clamp_(min=1)
