"""Plans as plain text for a terminal or a log. No colour, no decisions."""

from __future__ import annotations

from collections.abc import Sequence

from doran.plan.hardware import Hardware
from doran.plan.stages import StagePlan

COLUMNS = ("stage", "parameters", "active", "steps", "trained", "all tokens", "FLOPs", "memory", "time")


def render(plans: Sequence[StagePlan], hardware: Hardware) -> str:
    """A row per stage, the parts of memory and time below, and whether it all fits. Predictions, and it says so."""
    if not plans:
        return "nothing to run"
    seconds = sum(plan.total.seconds for plan in plans)
    peak = max(plans, key=lambda plan: plan.memory.peak)
    total = [
        "together",
        "",
        "",
        "",
        "",
        "",
        count(sum(p.total.flops for p in plans)),
        size(peak.memory.peak),
        clock(seconds),
    ]
    lines = [f"predicted for {hardware.name} ({size(hardware.memory)} of memory)", ""]
    lines += table([list(COLUMNS), *map(_row, plans), total])
    lines += ["", f"memory of {peak.name}, the largest: {_parts(peak)}"]
    lines += [f"time of {plan.name}: {_times(plan)}" for plan in plans if len(plan.work) > 1]
    return "\n".join([*lines, _verdict(peak, hardware)]) + "\n"


def _row(plan: StagePlan) -> list[str]:
    work = plan.total
    return [
        plan.name,
        count(plan.counts.total),
        count(plan.counts.active),
        f"{plan.steps:,}",
        count(plan.trained_tokens),
        count(work.tokens),
        count(work.flops),
        size(plan.memory.peak),
        clock(work.seconds),
    ]


def _parts(plan: StagePlan) -> str:
    return ", ".join(f"{name} {size(value)}" for name, value in plan.memory.parts().items())


def _times(plan: StagePlan) -> str:
    return ", ".join(f"{name} {clock(work.seconds)}" for name, work in plan.work.items())


def _verdict(peak: StagePlan, hardware: Hardware) -> str:
    if peak.memory.peak <= hardware.memory:
        return f"fits: {size(hardware.memory - peak.memory.peak)} to spare"
    return (
        f"does not fit: {peak.name} lacks {size(peak.memory.peak - hardware.memory)}; "
        "lower micro_tokens or max_batch, or take a smaller model"
    )


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned lines: the first column left, the others right, a rule under the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [lines[0], "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])]


def count(value: float) -> str:
    """950, 12.3k, 2.30M, 671B, 1.2e+18."""
    if value < 1000:
        return f"{value:.0f}"
    for limit, suffix in ((1e3, "k"), (1e6, "M"), (1e9, "B"), (1e12, "T")):
        if value < limit * 999.5:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.2g}"


def size(value: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def clock(seconds: float) -> str:
    """4.2 s, 3 min 20 s, 2 h 05 min, 12 days."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02d} min" if hours < 72 else f"{hours / 24:,.0f} days"
