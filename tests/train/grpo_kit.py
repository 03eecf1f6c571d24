"""A task a tiny model learns in seconds, for the tests of RL: say 7 as often as you can. No test here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from doran.base.config import build
from doran.base.runlog import read_metrics
from doran.engine.request import Completion
from doran.train.grpo import GrpoSettings, run_grpo
from doran.train.rollout import Dialect, Reward, draw_from

STOP, TARGET = 1, 7
DIALECT = Dialect(encode=lambda item: [2, item], decode=lambda ids: " ".join(map(str, ids)), stop_token_ids=(STOP,))
ITEMS = draw_from(list(range(3, 12)))


def share_of_target(items: list, texts: list[str], completions: list[Completion]) -> list[float]:
    """Share of sevens."""
    return [c.token_ids.count(TARGET) / 6 for c in completions]


REWARDS = [Reward("target", 1.0, share_of_target)]


def settings(**changes: Any) -> GrpoSettings:
    """Small, fp32, no warm-up."""
    values = {
        "steps": 4, "lr": 3e-3, "prompts_per_step": 4, "group_size": 6, "max_new_tokens": 6,
        "bf16": False, "rollout_bf16": False,
        "warmup_steps": 0, "checkpoint_every_steps": 2, "checkpoint_every_s": None,
    }  # fmt: skip
    return build(GrpoSettings, values | changes)


def run(model: Any, out: Path, rewards: Any = REWARDS, *, dialect: Dialect = DIALECT, draw: Any = ITEMS,
        environment: Any = None, progress: Any = None, **changes: Any) -> Path:  # fmt: skip
    """A run in `out`."""
    return run_grpo(model, dialect, draw, rewards, settings(**changes), out, progress=progress, environment=environment)


def rows(out: Path) -> list[dict]:
    """Its metrics."""
    return read_metrics(out / "metrics.jsonl")
