"""What `exact_logprobs` costs: the share of a GRPO step that goes into scoring the rollout once more.

The share is taken inside each step (time/exact over step_time), so another program that slows all of it hardly moves
it. 256 completions of one length a step. Step and sampler are both in fp32, or both in bf16. The first step, which
warms up, is left out.

    python bench/exact_logprobs.py --model runs/latest/stages/02-base/model
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any


def main() -> None:
    """Print a table row for each dtype."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", type=Path, required=True, help="folder with model and tokenizer")
    made.add_argument("--steps", type=int, default=7)
    made.add_argument("--tokens", type=int, default=128, help="length of every completion")
    args = made.parse_args()
    head = ("dtype", "step s", "scoring s", "share of the step", "gap/max", "sampler_mean", "sampler_max")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for name in ("fp32", "bf16"):
        rows = steps(args, name == "bf16")[1:]
        shares = [100 * r["time/exact"] / r["step_time"] for r in rows]
        step, scoring, gap = (
            statistics.median(r[k] for r in rows) for k in ("step_time", "time/exact", "gap/sampler_mean")
        )
        worst = [max(r[k] for r in rows) for k in ("gap/max", "gap/sampler_max")]
        share = f"{statistics.median(shares):.1f}% ({min(shares):.1f} to {max(shares):.1f})"
        print(
            f"| {name} | {step:.2f} | {scoring:.2f} | {share} | {worst[0]} | {gap:.2g} | {worst[1]:.2g} |", flush=True
        )


def steps(args: argparse.Namespace, bf16: bool) -> list[dict[str, Any]]:
    """The metrics of a short run with the option on."""
    from doran.base.runlog import read_metrics
    from doran.models.weights import load_model
    from doran.text.tokenizer import Tokenizer
    from doran.train.grpo import GrpoSettings, run_grpo
    from doran.train.rollout import Dialect, Reward, draw_from

    tokenizer = Tokenizer.load(args.model)
    settings = GrpoSettings(
        steps=args.steps, lr=1e-5, prompts_per_step=16, group_size=16, max_new_tokens=args.tokens, bf16=bf16,
        rollout_bf16=bf16, checkpoint_every_s=None, samples_per_step=0, warmup_steps=0, exact_logprobs=True,
    )  # fmt: skip
    dialect = Dialect(tokenizer.encode, tokenizer.decode, ())  # nothing stops: every completion has the full length
    parity = Reward("parity", 1.0, lambda items, texts, completions: [float(len(t) % 2) for t in texts])
    draw = draw_from([f"Use {i % 17}, {i % 13} and {i % 11} to make {i % 97}.\n" for i in range(200)])
    with tempfile.TemporaryDirectory() as out:
        run_grpo(load_model(args.model), dialect, draw, [parity], settings, Path(out))
        return read_metrics(Path(out) / "metrics.jsonl")


if __name__ == "__main__":
    main()
