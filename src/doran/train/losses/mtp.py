"""Targets of the multi-token prediction module (DeepSeek-V3 s2.2, depth 1). The loss itself is `linear_cross_entropy`.

At position i the main model predicts t_{i+1}; the MTP module reads (h_i, t_{i+1}) and predicts t_{i+2}. So its target
at i is the main target at i+1, provided i+1 lies in the same document.
"""

from __future__ import annotations

from torch import Tensor

from doran.train.losses.cross_entropy import IGNORE


def mtp_targets(tokens_T: Tensor, targets_T: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """(next_tokens_T, mtp_targets_T) inside each document of a pack; `cu_seqlens` = [0, len_1, len_1 + len_2, ...].

    At a document's last position the next token is not known from the pack: the value there is arbitrary and its target
    is IGNORE (attention is causal, so no other position reads it).
    """
    next_tokens_T, next_targets_T = tokens_T.roll(-1), targets_T.roll(-1)
    next_targets_T[cu_seqlens[1:].long() - 1] = IGNORE
    return next_tokens_T, next_targets_T
