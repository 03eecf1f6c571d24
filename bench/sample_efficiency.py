"""Reward per CPU-second: plain GRPO against ways of sampling less or learning more, from one base, on the same seeds.

Every contender gets the same CPU-seconds (user and system time of this process, so that other programs on the machine
do not count), the same stream of prompts, and looks at the same held-out questions. Reported: held-out pass@1
at the end (mean of the last two looks), and the CPU-seconds to plain GRPO's own final value.

    python bench/sample_efficiency.py --base runs/tiny-r1/stages/02-base/model
    python bench/sample_efficiency.py --base DIR --only plain probe --cpu-seconds 300 --seeds 0 1
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from shared import finish, parser, start

from doran.base.config import build
from doran.engine.request import SamplingParams
from doran.evals.run import evaluate, plain_style
from doran.models.weights import load_model
from doran.recipes.questions import dialect, drawing, pools, rewards
from doran.tasks.task import get_task
from doran.text.tokenizer import Tokenizer
from doran.train.grpo import GrpoSettings, run_grpo

COUNTDOWN = {"numbers": 3, "max_number": 10, "min_target": 10, "max_target": 99}
PLAIN: dict[str, Any] = {
    "prompts_per_step": 24, "group_size": 16, "max_new_tokens": 340, "optimizer": "muon", "lr": 3e-4, "muon_lr": 2e-3,
    "schedule": "constant", "warmup_steps": 5, "max_batch": 512, "checkpoint_every_s": None, "samples_per_step": 0,
}  # fmt: skip
CONTENDERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "refill": {"max_refills": 1},
    "probe": {"probe": 4, "probe_prompts": 48},
    "replay": {"replay_groups": 48, "replay_max_age": 4},
    "probe+replay": {"probe": 4, "probe_prompts": 36, "replay_groups": 48, "replay_max_age": 4},
    "choice": {"choice": "variance"},
    "circles": {"stop_repeats_after": 128},
    "two epochs": {"update_epochs": 2},
    "half": {"prompts_per_step": 12},
}


class Enough(Exception):
    """The CPU-seconds are used up."""


def main() -> None:
    """Run the contenders one after another and print what each reached."""
    made = parser(__doc__ or "")
    made.add_argument("--base", type=Path, required=True, help="model folder to start from")
    made.add_argument("--cpu-seconds", type=float, default=240.0, help="budget of each contender and seed")
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    made.add_argument("--pool", type=int, default=4000, help="training questions")
    made.add_argument("--items", type=int, default=200, help="held-out questions of a look")
    made.add_argument("--looks", type=int, default=8, help="looks at them")
    args = made.parse_args()
    start(args)
    curves: dict[str, dict[int, list[tuple[float, float]]]] = {name: {} for name in args.only}
    for seed in args.seeds:
        for name in args.only:
            curves[name][seed] = run(args, CONTENDERS[name], seed)
            shown = ", ".join(f"{used:.0f} s: {value:.3f}" for used, value in curves[name][seed])
            print(f"{name}, seed {seed}: {shown}", file=sys.stderr, flush=True)
    bar = {seed: final(curve) for seed, curve in curves[args.only[0]].items()}
    rows = [
        [
            name,
            f"{mean([curve[0][1] for curve in by_seed.values()]):.3f}",
            f"{mean([final(curve) for curve in by_seed.values()]):.3f}",
            f"{mean([area(curve) for curve in by_seed.values()]):.3f}",
            ", ".join(reached(by_seed[seed], bar[seed]) for seed in by_seed),
        ]
        for name, by_seed in curves.items()
    ]
    head = ["contender", "pass@1 at 0", "at the end", "mean over time", f"CPU-s to {args.only[0]}'s end"]
    finish(args, head, rows, curves)


def run(args: Any, options: dict[str, Any], seed: int) -> list[tuple[float, float]]:
    """(CPU-seconds, held-out pass@1) of one contender, looks not counted."""
    model, tokenizer = load_model(args.base), Tokenizer.load(args.base)
    task = get_task("countdown", **COUNTDOWN)
    pool = pools({"countdown": task}, ["countdown"], args.pool, seed)
    items = task.generate("test", args.items, 0)
    settings = build(GrpoSettings, {**PLAIN, **options, "steps": 10_000, "seed": seed})
    params = SamplingParams(settings.max_new_tokens, temperature=1.0, seed=0)
    curve: list[tuple[float, float]] = []
    clock = {"began": time.process_time()}

    def used() -> float:
        return time.process_time() - clock["began"]

    def look() -> None:
        at = used()
        seen = evaluate(model, tokenizer, task, items, 1, params, prompt_style=plain_style, keep_texts=0)
        curve.append((at, float(seen.summary()["all"]["pass@1"].value or 0.0)))
        clock["began"] += used() - at

    def watch() -> dict[str, float]:
        if used() >= len(curve) * args.cpu_seconds / args.looks:
            look()
        if used() >= args.cpu_seconds:
            raise Enough
        return {}

    look()
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(Enough):
            run_grpo(
                model, dialect(tokenizer, plain_style), drawing(pool, {"countdown": 1.0}),
                rewards({"accuracy": 1.0, "format": 0.1}), settings, Path(folder), watch=watch, watch_every=1,
            )  # fmt: skip
        if args.json:
            rows = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            print(json.dumps(summary([json.loads(row) for row in rows])), file=sys.stderr)
    return curve


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How many steps were made, and their means."""
    names = ("kept_groups", "frac_reward_zero_std", "time/sample", "time/update", "tokens", "entropy")
    return {"steps": len(rows), **{name: round(mean([row[name] for row in rows]), 3) for name in names}}


def mean(values: list[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def final(curve: list[tuple[float, float]]) -> float:
    """Mean of the last two looks."""
    return mean([value for _, value in curve[-2:]])


def area(curve: list[tuple[float, float]]) -> float:
    """Mean over the CPU-seconds, by trapezoids."""
    pieces = [(b[0] - a[0], (a[1] + b[1]) / 2) for a, b in zip(curve, curve[1:], strict=False)]
    return sum(width * height for width, height in pieces) / sum(width for width, _ in pieces)


def reached(curve: list[tuple[float, float]], bar: float) -> str:
    """When the curve first reached `bar`."""
    return next((f"{used:.0f}" for used, value in curve if value >= bar), "–")


if __name__ == "__main__":
    main()
