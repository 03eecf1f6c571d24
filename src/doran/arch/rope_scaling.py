"""How rotary positions are stretched beyond the trained length, as numbers. Tables are made in layers/rope.py.

Both spellings of the hub are read: `rope_scaling` with `type` or `rope_type` beside `rope_theta` (transformers 4 and
most released models), and `rope_parameters` with everything inside (transformers 5). The older one is written, because
every reader understands it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from doran.base.errors import ConfigError

_KEYS = {
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
        "mscale_all_dim", "truncate",
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """One of `linear`, `llama3`, `yarn`; the names are the hub's."""

    rope_type: str
    factor: float
    original_max_position_embeddings: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        if self.rope_type not in _KEYS:
            raise ConfigError(f"rope_scaling: unknown rope_type {self.rope_type!r}", hint=f"known: {', '.join(_KEYS)}")
        if self.factor < 1:
            raise ConfigError(f"rope_scaling: factor is {self.factor}, must be at least 1")
        if self.rope_type != "linear" and self.original_max_position_embeddings <= 0:
            raise ConfigError("rope_scaling: original_max_position_embeddings must be positive")

    def to_hf(self) -> dict[str, Any]:
        """The hub's `rope_scaling` value."""
        kept = {k: v for k, v in asdict(self).items() if k in _KEYS[self.rope_type] and v is not None}
        return {"rope_type": self.rope_type, **kept}

    @property
    def table_factor(self) -> float:
        """What YaRN multiplies cos and sin by (1 for DeepSeek-V3, whose mscale and mscale_all_dim are equal)."""
        if self.rope_type != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return yarn_mscale(self.factor, self.mscale) / yarn_mscale(self.factor, self.mscale_all_dim)
        return yarn_mscale(self.factor)

    @property
    def softmax_factor(self) -> float:
        """What DeepSeek's MLA multiplies its softmax scale by: the square of mscale(mscale_all_dim)."""
        return yarn_mscale(self.factor, self.mscale_all_dim) ** 2 if self.mscale_all_dim else 1.0


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    """YaRN's attention temperature, 0.1 * mscale * ln(factor) + 1."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def read_rope(raw: dict[str, Any], max_position_embeddings: int) -> tuple[float, RopeScaling | None]:
    """(rope_theta, scaling) from a config.json's keys, either spelling."""
    nested = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(nested, dict):
        raise ConfigError(f"rope_scaling must be a table, not {nested!r}")
    nested = {k: v for k, v in nested.items() if v is not None}
    theta = float(nested.pop("rope_theta", None) or raw.get("rope_theta") or 10000.0)
    rope_type = nested.pop("rope_type", None)
    rope_type = nested.pop("type", rope_type) if rope_type is None else (nested.pop("type", None), rope_type)[1]
    if rope_type in (None, "default"):
        return theta, None
    if rope_type not in _KEYS:
        raise ConfigError(f"rope_scaling: unknown rope_type {rope_type!r}", hint=f"known: default, {', '.join(_KEYS)}")
    unknown = sorted(set(nested) - _KEYS[rope_type])
    if unknown:
        raise ConfigError(f"rope_scaling: unknown key {unknown[0]!r} for {rope_type}")
    if "factor" not in nested:
        raise ConfigError(f"rope_scaling: {rope_type} needs a factor")
    if rope_type != "linear":
        nested.setdefault("original_max_position_embeddings", max_position_embeddings)
    return theta, RopeScaling(rope_type=rope_type, **nested)
