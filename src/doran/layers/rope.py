"""Rotary positions: the frequency table (plain, linear, llama3, YaRN) and its application. Tables are fp32.

T tokens, H heads, R rotated dimensions. The released DeepSeek weights pair neighbours (x0, x1), (x2, x3), ...
(`rope_interleave`); Llama and Qwen pair halves (x0, x_{R/2}), .... The rotated result is always laid out in halves:
queries and keys go through the same permutation, so their products do not change (transformers does the same).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from doran.arch.config import ModelConfig
from doran.arch.rope_scaling import RopeScaling
from doran.native import ops


class RopeTable(NamedTuple):
    """cos and sin of each token's angles, (T, R/2) fp32."""

    cos: Tensor
    sin: Tensor


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """(R/2,) radians a position, fp32: theta^(-2i/R), stretched as `config.rope_scaling` says."""
    dim = config.rope_dim
    freqs = 1.0 / config.rope_theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)
    scaling = config.rope_scaling
    if scaling is None:
        return freqs
    if scaling.rope_type == "linear":
        return freqs / scaling.factor
    if scaling.rope_type == "llama3":
        return _llama3(freqs, scaling)
    return _yarn(freqs, scaling, dim, config.rope_theta)


def _llama3(freqs: Tensor, s: RopeScaling) -> Tensor:
    """Long waves are slowed by `factor`, short ones kept, those between blended (Llama 3.1)."""
    turns = s.original_max_position_embeddings * freqs / (2 * math.pi)
    kept = ((turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)).clamp(0, 1)
    return freqs / s.factor * (1 - kept) + freqs * kept


def yarn_bounds(s: RopeScaling, dim: int, theta: float) -> tuple[float, float]:
    """The pair indices between which YaRN blends: 10 and 23 for DeepSeek-V3."""

    def pair_with(turns: float) -> float:
        return dim * math.log(s.original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with(s.beta_fast), pair_with(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, dim - 1)


def _yarn(freqs: Tensor, s: RopeScaling, dim: int, theta: float) -> Tensor:
    """f * (1 - ramp) + f / factor * ramp (YaRN, arXiv 2309.00071)."""
    low, high = yarn_bounds(s, dim, theta)
    high = high + 0.001 if low == high else high  # the papers' guard against 0/0
    ramp = ((torch.arange(len(freqs), dtype=torch.float32, device="cpu") - low) / (high - low)).clamp(0, 1)
    return freqs * (1 - ramp) + freqs / s.factor * ramp


class Rope:
    """Makes tables for positions. Holds one small fp32 vector; not a module, because nothing in it is a weight."""

    def __init__(self, config: ModelConfig) -> None:
        self.inv_freq = inverse_frequencies(config)
        self.factor = config.rope_scaling.table_factor if config.rope_scaling else 1.0

    def table(self, positions_T: Tensor) -> RopeTable:
        """The table for these positions, made once a forward and shared by all layers."""
        if self.inv_freq.device != positions_T.device:
            self.inv_freq = self.inv_freq.to(positions_T.device)
        angles = positions_T.float()[:, None] * self.inv_freq
        return RopeTable(angles.cos() * self.factor, angles.sin() * self.factor)


def apply_rope(x_THR: Tensor, table: RopeTable, interleave: bool) -> Tensor:
    """Rotate in fp32; same shape and dtype out, in halves layout."""
    if interleave:
        x_THR = x_THR.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    return ops.rope(x_THR, table.cos, table.sin)
