"""What goes wrong in RL, seen in the rows of metrics.jsonl: an alarm says it in plain words and names the mend.

`alarms(rows)` looks at the last WINDOW rows against the first ones and is a pure function, so the live run, the log
(`alarms.jsonl`) and `doran doctor --run` say the same. An alarm is a reason to look, not to stop: it changes nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WINDOW = 5
"""Rows that are looked at together; a run shorter than two windows has no trend yet."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Alarm:
    """One finding: a name for scripts, what is seen, and what usually mends it."""

    name: str
    seen: str
    mend: str


def alarms(rows: Sequence[Row]) -> list[Alarm]:
    """The alarms that stand at the last row, the gravest first."""
    return [alarm for look in _LOOKS if (alarm := look(rows)) is not None]


def new_alarms(rows: Sequence[Row], standing: set[str]) -> list[Alarm]:
    """The alarms that were not standing before; `standing` is brought up to date."""
    found = alarms(rows)
    fresh = [alarm for alarm in found if alarm.name not in standing]
    standing.clear()
    standing.update(alarm.name for alarm in found)
    return fresh


# --- the looks --------------------------------------------------------------------------------------------


def _verifier_errors(rows: Sequence[Row]) -> Alarm | None:
    failed = sum(row.get("faults/completions", 0) for row in rows[-WINDOW:])
    asked = sum(row.get("completions/count", 0) for row in rows[-WINDOW:])
    if not asked or failed / asked < 0.01:
        return None
    return Alarm(
        "verifier_errors",
        f"the judge failed for {failed} of the last {asked} completions ({failed / asked:.0%}); they were left out",
        "read the reasons with doran rollouts RUN --faults, and mend the reward function or its time limit",
    )


def _unusable_prompts(rows: Sequence[Row]) -> Alarm | None:
    unusable = sum(row.get("faults/prompts", 0) for row in rows[-WINDOW:])
    if not unusable:
        return None
    return Alarm(
        "unusable_prompts",
        f"{unusable} of the prompts drawn lately were empty or longer than the model's window; they were left out",
        "clean the data, or use a model with a longer window",
    )


def _no_contrast(rows: Sequence[Row]) -> Alarm | None:
    share = _recent(rows, "frac_reward_zero_std")
    if share is None or share < 0.95:
        return None
    part = "rewards/accuracy/mean" if "rewards/accuracy/mean" in rows[-1] else "reward"
    level = _recent(rows, part) or 0.0
    best = max(row.get(part) or 0.0 for row in rows)
    if level >= 0.5 and level >= 0.5 * best:
        return Alarm(
            "all_right",
            f"in {share:.0%} of the groups all completions have one and the same, good reward ({part} {level:.2f})",
            "the questions are too easy by now: harder ones, or stop here; choice=variance and probe find what is left",
        )
    return Alarm(
        "all_wrong",
        f"in {share:.0%} of the groups all completions have one and the same, poor reward ({part} {level:.2f})",
        "nothing can be learnt: easier questions first, more demonstrations before RL, or a larger group_size",
    )


def _truncation(rows: Sequence[Row]) -> Alarm | None:
    share = _recent(rows, "completions/clipped_ratio")
    if share is None or share < 0.2:
        return None
    return Alarm(
        "truncation",
        f"{share:.0%} of the completions are cut off at max_new_tokens and count as wrong",
        "raise max_new_tokens, punish length softly with overlong_cache, or leave them out with mask_truncated",
    )


def _entropy_collapse(rows: Sequence[Row]) -> Alarm | None:
    now, then, stands_still = _recent(rows, "entropy"), _early(rows, "entropy"), _gain(rows, "reward")
    if now is None or then is None or stands_still is None or then <= 0:
        return None
    if now > 0.2 * then or stands_still > 0.02:
        return None
    return Alarm(
        "entropy_collapse",
        f"entropy fell from {then:.3g} to {now:.3g} nats a token and the reward no longer rises: the policy has closed "
        "its alternatives",
        "raise clip_high, lower lr, or set entropy_target near the old value; restart from an earlier checkpoint",
    )


def _kl_runaway(rows: Sequence[Row]) -> Alarm | None:
    now, before = _recent(rows, "kl"), _before(rows, "kl")
    if now is None or now < 0.5 or before is None or now < 1.5 * before:
        return None
    return Alarm(
        "kl_runaway",
        f"the KL to the reference is {now:.2g} nats a token and grows ({before:.2g} before)",
        "raise beta, lower lr, or refresh the reference (reference_refresh_steps)",
    )


def _gap_growing(rows: Sequence[Row]) -> Alarm | None:
    now, then = _recent(rows, "gap/kl"), _early(rows, "gap/kl")
    if now is None or then is None or now < 0.01 or now < 5 * then:
        return None
    return Alarm(
        "gap_growing",
        f"sampler and trainer drift apart: gap/kl is {now:.2g} nats a token, {then:.2g} at the start",
        "set rollout_bf16=false, keep tis_cap (or importance_cut=mask), and lower lr",
    )


def _length_hacking(rows: Sequence[Row]) -> Alarm | None:
    now, before = _recent(rows, "completions/mean_length"), _before(rows, "completions/mean_length")
    part = "rewards/accuracy/mean" if rows and "rewards/accuracy/mean" in rows[-1] else "reward"
    gain = _gain(rows, part)
    if now is None or before is None or gain is None or now < 1.3 * before or gain > 0.02:
        return None
    return Alarm(
        "length_hacking",
        f"completions grew from {before:.0f} to {now:.0f} tokens and {part} did not rise",
        "something pays for length: aggregation=constant with scale_rewards=none (Dr.GRPO), overlong_cache; read the "
        "longest with doran rollouts RUN --longest 5",
    )


def _parts_diverging(rows: Sequence[Row]) -> Alarm | None:
    names = [n for n in (rows[-1] if rows else {}) if n.startswith("rewards/") and n.endswith("/mean")]
    gains = {n.split("/")[1]: gain for n in names if (gain := _gain(rows, n)) is not None}
    if len(gains) < 2:
        return None
    up, down = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    if gains[up] < 0.1 or gains[down] > -0.1:
        return None
    return Alarm(
        "parts_diverging",
        f"the reward '{up}' rises ({gains[up]:+.2f}) while '{down}' falls ({gains[down]:+.2f}): one costs the other",
        f"raise the weight of '{down}' or lower that of '{up}'; advantage=gdpo gives each part its own say",
    )


_LOOKS: tuple[Callable[[Sequence[Row]], Alarm | None], ...] = (
    _verifier_errors, _unusable_prompts, _no_contrast, _entropy_collapse, _kl_runaway, _gap_growing, _truncation,
    _length_hacking, _parts_diverging,
)  # fmt: skip


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row.get(name) is not None]


def _recent(rows: Sequence[Row], name: str) -> float | None:
    """Median of the last window; None before the first is full."""
    return statistics.median(values) if len(values := _values(rows[-WINDOW:], name)) == WINDOW else None


def _early(rows: Sequence[Row], name: str) -> float | None:
    """Median of the first window, where the last does not overlap it."""
    if len(rows) < 2 * WINDOW or not (values := _values(rows[:WINDOW], name)):
        return None
    return statistics.median(values)


def _before(rows: Sequence[Row], name: str) -> float | None:
    """Median of the window that ended two windows ago, or the first there is."""
    if len(rows) < 2 * WINDOW:
        return None
    start = max(0, len(rows) - 4 * WINDOW)
    values = _values(rows[start : start + WINDOW], name)
    return statistics.median(values) if values else None


def _gain(rows: Sequence[Row], name: str) -> float | None:
    """How much a value rose since `_before`."""
    now, before = _recent(rows, name), _before(rows, name)
    return None if now is None or before is None else now - before
