"""Losses: pure functions from named tensors to (loss, metrics). Nothing here knows a model or an optimizer."""

from __future__ import annotations

from doran.train.losses.cross_entropy import IGNORE, linear_cross_entropy, token_logprobs
from doran.train.losses.entropy import adapted_coefficient, entropies
from doran.train.losses.importance import importance_weights
from doran.train.losses.kl import k1, k2, k3
from doran.train.losses.mtp import mtp_targets
from doran.train.losses.overlong import overlong_penalty
from doran.train.losses.policy import aggregation_weights, policy_loss

__all__ = [
    "IGNORE",
    "adapted_coefficient",
    "aggregation_weights",
    "entropies",
    "importance_weights",
    "k1",
    "k2",
    "k3",
    "linear_cross_entropy",
    "mtp_targets",
    "overlong_penalty",
    "policy_loss",
    "token_logprobs",
]
