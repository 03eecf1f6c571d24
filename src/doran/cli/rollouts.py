"""`doran rollouts`: read what a model said during RL: steps, the best and the worst, one group with its advantages.

It reads what `record` wrote (train/recorder.py), or samples.jsonl where nothing was recorded. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from doran.base.errors import ArtifactError, UsageError, suggest
from doran.cli.options import Json, print_json, say

Row = dict[str, Any]


def main(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, of its RL stage, or of doran rl.")],
    stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="One RL stage of a run.")] = None,
    step: Annotated[int | None, typer.Option("--step", metavar="N", min=1, help="One step; its groups.")] = None,
    best: Annotated[int, typer.Option("--best", metavar="N", min=0, help="The N with the highest reward.")] = 0,
    worst: Annotated[int, typer.Option("--worst", metavar="N", min=0, help="The N with the lowest reward.")] = 0,
    longest: Annotated[int, typer.Option("--longest", metavar="N", min=0, help="The N longest.")] = 0,
    min_reward: Annotated[
        float | None, typer.Option("--min-reward", metavar="R", help="Only completions with at least this reward.")
    ] = None,
    max_reward: Annotated[
        float | None, typer.Option("--max-reward", metavar="R", help="Only completions with at most this reward.")
    ] = None,
    faults: Annotated[bool, typer.Option("--faults", help="Only completions that could not be judged.")] = False,
    show: Annotated[
        str | None, typer.Option("--show", metavar="STEP/GROUP[/K]", help="A group, or one completion, in full.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Browse what the model said during RL, with rewards and advantages.

    Without options it lists the steps. --best, --worst, --longest and the filters list completions, each with a name
    STEP/GROUP/K that --show takes. All completions are there when the run had train.record=jsonl (doran rl has it
    unless told otherwise); else a few of each step.

    Example: doran rollouts runs/rl --worst 5        Then: doran rollouts runs/rl --show 12/3
    """
    filtered = faults or min_reward is not None or max_reward is not None
    if sum(map(bool, (best, worst, longest))) > 1:
        raise UsageError("--best, --worst and --longest exclude one another", hint="give one of them")
    folder = chosen_stage(run, stage)
    wanted = parse_name(show) if show else None
    rows = named(read(folder, wanted[0] if wanted else step))
    if wanted:
        rows = [row for row in rows if row["group"] == wanted[1] and wanted[2] in (None, row["k"])]
        if not rows:
            raise UsageError(f"--show {show}: no such completion", hint="doran rollouts RUN --step N lists the groups")
        report({"rollouts": rows}, as_json, lambda: "\n\n".join(in_full(row) for row in rows))
        return
    if best or worst or longest or filtered:
        rows = [row for row in rows if fits(row, min_reward, max_reward, faults)]
        key: Callable[[Row], float] = (lambda row: row["length"]) if longest else (lambda row: row["reward"])
        if best or worst or longest:
            rows = sorted(rows, key=key, reverse=not worst)[: best or worst or longest]
        report({"rollouts": rows}, as_json, lambda: table(LIST, [line(row) for row in rows]))
    elif step is not None:
        groups = by(rows, "group")
        summaries = [{"group": number, "prompt": group[0]["prompt"], **summary(group)} for number, group in groups]
        report({"step": step, "groups": summaries}, as_json, lambda: table(GROUPS, [group_line(s) for s in summaries]))
    else:
        steps = [{"step": number, **summary(group)} for number, group in by(rows, "step")]
        report({"stage": str(folder), "steps": steps}, as_json, lambda: table(STEPS, [step_line(s) for s in steps]))


# --- reading ----------------------------------------------------------------------------------------------------


def chosen_stage(run: Path, stage: str | None) -> Path:
    """The folder with rollouts/ or samples.jsonl of an RL stage. An error lists the stages to choose from."""
    if not run.exists():
        raise ArtifactError(f"{run}: no such folder", hint="give the folder of a run, such as runs/latest")
    if stage is None and is_stage(run):
        return run
    stages = {p.name: p for p in sorted(run.glob("stages/*")) if is_stage(p)}
    if stage is None:
        if len(stages) == 1:
            return next(iter(stages.values()))
        if not stages:
            raise ArtifactError(f"{run}: no rollouts in it", hint="give a run with an RL stage")
        raise UsageError(f"{run} has several RL stages", hint=f"choose with --stage: {', '.join(stages)}")
    found = [p for name, p in stages.items() if stage in (name, name.partition("-")[2])]
    if not found:
        raise UsageError(f"--stage: no RL stage {stage!r} in {run}", hint=suggest(stage, list(stages)))
    return found[0]


def is_stage(folder: Path) -> bool:
    """Does the folder hold rollouts, or samples with rewards?"""
    if (folder / "rollouts").is_dir():
        return True
    samples = folder / "samples.jsonl"
    if not samples.is_file():
        return False
    with open(samples, encoding="utf-8") as file:
        return '"advantage"' in file.readline()


def read(folder: Path, step: int | None) -> Iterator[Row]:
    """The rows of a step, or of all; UsageError where there are none."""
    from doran.base.runlog import read_metrics
    from doran.train.recorder import read_step, recorded

    files = recorded(folder / "rollouts")
    if files:
        if step is not None and step not in dict(files):
            raise UsageError(f"step {step} is not recorded", hint=f"recorded: {files[0][0]} to {files[-1][0]}")
        for number, path in files:
            if step in (None, number):
                yield from read_step(path)
        return
    say("note: nothing was recorded (train.record=jsonl does); these are the few completions in samples.jsonl")
    rows = [row for row in read_metrics(folder / "samples.jsonl") if step in (None, row["step"])]
    if not rows:
        raise UsageError(f"step {step} has no samples", hint="leave --step out to see which have")
    for i, row in enumerate(rows):
        yield {"group": i, "fault": None, "age": 0, **row}


def named(rows: Iterator[Row]) -> list[Row]:
    """The rows with `k`, their place in the group, and `name`, which --show takes."""
    counts: dict[tuple[int, int], int] = {}
    result = []
    for row in rows:
        key = (row["step"], row["group"])
        k = counts.get(key, 0)
        counts[key] = k + 1
        result.append({"name": f"{key[0]}/{key[1]}/{k}", "k": k, **row})
    return result


def parse_name(text: str) -> tuple[int, int, int | None]:
    """(step, group, completion or None) of 12/3 or 12/3/0."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(p.isascii() and p.isdecimal() for p in parts):
        raise UsageError(f"--show {text}: not STEP/GROUP or STEP/GROUP/K", hint="write it as listed, such as 12/3/0")
    return int(parts[0]), int(parts[1]), int(parts[2]) if len(parts) == 3 else None


def fits(row: Row, low: float | None, high: float | None, faults: bool) -> bool:
    """Does a row pass the filters?"""
    within = (low is None or row["reward"] >= low) and (high is None or row["reward"] <= high)
    return within and (not faults or row.get("fault") is not None)


def by(rows: Sequence[Row], key: str) -> list[tuple[int, list[Row]]]:
    """Rows in parts that share `key`, sorted by it."""
    parts: dict[int, list[Row]] = {}
    for row in rows:
        parts.setdefault(row[key], []).append(row)
    return sorted(parts.items())


def summary(rows: Sequence[Row]) -> Row:
    """What a list of rows comes to."""
    rewards = [row["reward"] for row in rows]
    groups = [[row["reward"] for row in group] for _, group in by(rows, "group")]
    return {
        "completions": len(rows),
        "reward": sum(rewards) / len(rows),
        "lowest": min(rewards),
        "highest": max(rewards),
        "equal_groups": sum(max(g) - min(g) < 1e-8 for g in groups) / len(groups),
        "mean_length": sum(row["length"] for row in rows) / len(rows),
        "truncated": sum(row["finish_reason"] == "length" for row in rows) / len(rows),
        "faults": sum(row.get("fault") is not None for row in rows),
    }


# --- showing ----------------------------------------------------------------------------------------------------

STEPS = ("step", "completions", "reward", "lowest", "highest", "equal groups", "tokens", "cut off", "faults")
GROUPS = ("group", "n", "reward", "lowest", "highest", "tokens", "prompt")
LIST = ("name", "reward", "advantage", "tokens", "end", "says")


def step_line(s: Row) -> list[str]:
    """One step in the list of steps."""
    return [
        str(s["step"]), str(s["completions"]), f"{s['reward']:.3f}", f"{s['lowest']:.2f}", f"{s['highest']:.2f}",
        f"{s['equal_groups']:.0%}", f"{s['mean_length']:.0f}", f"{s['truncated']:.0%}", str(s["faults"]),
    ]  # fmt: skip


def group_line(s: Row) -> list[str]:
    """One group in the list of a step."""
    return [
        str(s["group"]), str(s["completions"]), f"{s['reward']:.3f}", f"{s['lowest']:.2f}", f"{s['highest']:.2f}",
        f"{s['mean_length']:.0f}", short(s["prompt"]),
    ]  # fmt: skip


def line(row: Row) -> list[str]:
    """One completion in a list."""
    says = f"[{row['fault']}]" if row.get("fault") else row["completion"]
    return [
        row["name"], f"{row['reward']:.3f}", f"{row['advantage']:+.2f}", str(row["length"]), row["finish_reason"],
        short(says),
    ]  # fmt: skip


def in_full(row: Row) -> str:
    """Everything of one completion that a person can read."""
    parts = ", ".join(f"{name} {value:g}" for name, value in row["rewards"].items())
    lines = [
        f"=== {row['name']}: reward {row['reward']:g} ({parts}), advantage {row['advantage']:+.3f}, "
        f"{row['length']} tokens, {row['finish_reason']}" + (f", {row['age']} steps old" if row.get("age") else ""),
    ]
    if row.get("fault"):
        lines.append(f"not judged: {row['fault']}")
    if row.get("logprobs"):
        own = row.get("own") or [True] * len(row["logprobs"])
        kept = [p for p, mine in zip(row["logprobs"], own, strict=True) if mine]
        lines.append(f"logprobs: mean {sum(kept) / len(kept):.3f}, lowest {min(kept):.3f} of {len(kept)} tokens")
    return "\n".join([*lines, "--- prompt", printable(row["prompt"]), "--- completion", printable(row["completion"])])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their names, the last one as long as it is."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    justify = lambda row: "  ".join([c.rjust(w) for c, w in zip(row[:-1], widths, strict=False)] + [row[-1]])  # noqa: E731
    return "\n".join(justify(row) for row in [head, *rows])


def short(text: str, width: int = 70) -> str:
    """The start of a text on one line."""
    flat = printable(" ".join(text.split()))
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def printable(text: str) -> str:
    """Without control characters: a model's text must not drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def report(data: Row, as_json: bool, text: Callable[[], str]) -> None:
    """One JSON object, or the text for people."""
    if as_json:
        print_json(data)
    else:
        print(text())
