"""Tokens a second of one training step: doran against transformers, same config, same documents, AdamW both.

doran packs the documents; transformers pads them to the longest of the batch (--buckets N: sorted by length into N
micro-batches first, as a length-grouping sampler would). Both clip gradients; both run bf16 as autocast over fp32
weights. The MTP module is left out, since transformers has none. A token counts when it is a target. Before anything is
timed, the first losses of the two must agree.

    python bench/train_speed.py                      # both families, fp32 and bf16
    python bench/train_speed.py --family qwen2 --dtype bf16 --rounds 3
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from shared import DTYPES, SECTIONS, finish, parser, ratio, rounds, seconds, shape, spread, start
from torch import Tensor

from doran.arch.config import ModelConfig
from doran.arch.count import parameters
from doran.base.device import matmul_peak
from doran.models.families import build
from doran.models.weights import save_model
from doran.train.batch import pack
from doran.train.losses import IGNORE
from doran.train.optim import build_optimizer
from doran.train.pretrain import PretrainSettings, lm_step, mean_context, training_flops

LR = 1e-4  # small: the timed steps repeat one batch


def main() -> None:
    """Run what the options ask for and print one row a family and dtype."""
    made = parser(__doc__ or "")
    made.add_argument("--family", choices=[*SECTIONS, "both"], default="both")
    made.add_argument("--dtype", choices=[*DTYPES, "both"], default="both")
    made.add_argument("--tokens", type=int, default=4096, help="tokens of documents in one step")
    made.add_argument("--shortest", type=int, default=30, help="tokens of the shortest document")
    made.add_argument("--longest", type=int, default=200, help="tokens of the longest document")
    made.add_argument("--steps", type=int, default=3, help="steps a contender makes in one round")
    made.add_argument("--buckets", type=int, default=1, help="length-sorted micro-batches transformers pads separately")
    args = made.parse_args()
    start(args)
    rows, figures = [], {}
    for family in SECTIONS if args.family == "both" else [args.family]:
        for dtype in DTYPES if args.dtype == "both" else [args.dtype]:
            row, found = compare(args, family, dtype)
            rows.append(row)
            figures[f"{family}/{dtype}"] = found
    head = ["model", "dtype", "doran tokens/s", "doran MFU", "transformers tokens/s", "transformers MFU", "ratio"]
    finish(args, head, rows, figures)


def compare(args: argparse.Namespace, family: str, dtype: str) -> tuple[list[str], dict[str, Any]]:
    """One row of the table and the figures behind it."""
    config = shape(args.recipe, family)
    documents = draw_documents(args, config.vocab_size)
    targets = sum(len(ids) - 1 for ids in documents)
    steps = {
        "doran": doran_step(config, documents, dtype),
        "transformers": transformers_step(config, documents, dtype, args.buckets),
    }

    check_same({name: step() for name, step in steps.items()}, 1e-3 if dtype == "fp32" else 2e-2)

    def timed(step: Callable[[], Any]) -> Callable[[], float]:
        return lambda: args.steps * targets / seconds(lambda: [step() for _ in range(args.steps)])

    speed = rounds({name: timed(step) for name, step in steps.items()}, args.rounds)
    context = mean_context([pack([(ids, [True] * len(ids)) for ids in documents])])
    flops = training_flops(config, with_mtp=False)(context)
    peak = matmul_peak({"fp32": "float32", "bf16": "bfloat16"}[dtype])
    mfu = {name: statistics.median(values) * flops / peak for name, values in speed.items()}
    times = ratio(speed["doran"], speed["transformers"])
    name = f"{family}, {parameters(config).total / 1e6:.2f}M"
    row = [name, dtype]
    for who in speed:
        row += [spread(speed[who]), f"{mfu[who]:.0%}"]
    return [*row, f"{times:.2f}"], {"tokens_per_second": speed, "mfu": mfu, "ratio": times, "peak_flops": peak}


def check_same(losses: dict[str, float], tolerance: float) -> None:
    """Stop when the two do not compute the same thing: a speed would then mean nothing."""
    ours, theirs = losses.values()
    if abs(ours - theirs) > tolerance * abs(theirs):
        sys.exit(f"error: the first losses differ: {losses}\nhint: the two models are not the same; mend this first")


def draw_documents(args: argparse.Namespace, vocab_size: int) -> list[list[int]]:
    """Random ids in documents of evenly spread lengths, --tokens of them together (the last document may be over)."""
    rng = random.Random(0)
    documents: list[list[int]] = []
    while sum(map(len, documents)) < args.tokens:
        documents.append([rng.randrange(vocab_size) for _ in range(rng.randint(args.shortest, args.longest))])
    return documents


def doran_step(config: ModelConfig, documents: list[list[int]], dtype: str) -> Callable[[], float]:
    """A step of the project's own trainer on one pack."""
    settings = PretrainSettings(
        optimizer="adamw", lr=LR, bf16=dtype == "bf16", mtp_lambda=0.0, router_bias_gamma=0.0, balance_alpha=0.0
    )
    model = build(config, seed=0)
    optimizer = build_optimizer(model, settings)
    packed = pack([(ids, [True] * len(ids)) for ids in sorted(documents, key=len)])
    return lambda: float(lm_step(model, optimizer, [packed], settings, 1.0)["loss"])


def transformers_step(config: ModelConfig, documents: list[list[int]], dtype: str, buckets: int) -> Callable[[], float]:
    """The usual loop around a transformers model made from the same weights."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_model(build(config, seed=0), Path(folder))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batches = padded(documents, buckets)
    total = sum(len(ids) - 1 for ids in documents)

    def step() -> float:
        whole = 0.0
        for batch in batches:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
                loss = model(**batch, use_cache=False, num_items_in_batch=total).loss
            loss.backward()
            whole += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return whole

    return step


def padded(documents: list[list[int]], buckets: int) -> list[dict[str, Tensor]]:
    """`buckets` batches of input_ids, attention_mask and labels; documents of like length together."""
    documents = sorted(documents, key=len)
    size = -(-len(documents) // buckets)
    batches = []
    for group in (documents[i : i + size] for i in range(0, len(documents), size)):
        longest = max(map(len, group))
        fill = lambda value, rows, longest=longest: torch.tensor([[*r, *[value] * (longest - len(r))] for r in rows])  # noqa: E731
        mask = fill(0, [[1] * len(ids) for ids in group])
        batches.append({"input_ids": fill(0, group), "attention_mask": mask, "labels": fill(IGNORE, group)})
    return batches


if __name__ == "__main__":
    main()
