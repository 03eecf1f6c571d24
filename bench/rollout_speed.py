"""Sampling speed: doran's engine against transformers' generate, same weights on disk, 64 streams and one.

Two shapes: the recipe's DeepSeek-V3 and a Qwen2 of 4.9M parameters. Temperature 1, no top-k or top-p in either; weights
are random. Two loads: `full`, where every completion runs to the limit, and `varying`, where about one token in
--mean-length is a stop token, so that completions end at different times, as in RL. Generated tokens count, stop tokens
included, padding not. In bf16 doran samples as in RL, from fp32 weights packed anew in each call; transformers holds
bf16. `share`: the operations of doran's tokens, prompts not counted, against the matrix-product peak of this process.

    python bench/rollout_speed.py
    python bench/rollout_speed.py --family qwen2 --streams 8 --new-tokens 32 --rounds 1
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from shared import DTYPES, finish, parser, ratio, rounds, seconds, shape, spread, start

from doran.arch.config import ModelConfig
from doran.arch.count import flops_per_token
from doran.base.device import matmul_peak
from doran.engine import Engine, SamplingParams
from doran.models.families import build
from doran.models.weights import load_model, save_model

LOADS = ("full", "varying")
FAMILIES = ("deepseek_v3", "qwen2")
SMALL_QWEN2 = ModelConfig(
    model_type="qwen2", vocab_size=832, hidden_size=256, intermediate_size=768, num_hidden_layers=6,
    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=1024,
)  # fmt: skip


def main() -> None:
    """Run what the options ask for and print one row a family, dtype, load and number of streams."""
    made = parser(__doc__ or "")
    made.add_argument("--family", choices=[*FAMILIES, "both"], default="both")
    made.add_argument("--dtype", choices=[*DTYPES, "both"], default="both")
    made.add_argument("--load", choices=[*LOADS, "both"], default="full")
    made.add_argument("--streams", type=int, nargs="+", default=[64, 1], help="completions at a time")
    made.add_argument("--group", type=int, default=8, help="completions of each prompt of 20 to 60 tokens")
    made.add_argument("--new-tokens", type=int, default=128, help="longest completion")
    made.add_argument("--mean-length", type=int, default=48, help="varying: mean completion, were there no limit")
    made.set_defaults(rounds=3)
    args = made.parse_args()
    start(args)
    rows, figures = [], {}
    for family in FAMILIES if args.family == "both" else [args.family]:
        with tempfile.TemporaryDirectory() as folder:
            config = SMALL_QWEN2 if family == "qwen2" else shape(args.recipe, family)
            save_model(build(config, seed=0), Path(folder))
            for dtype in DTYPES if args.dtype == "both" else [args.dtype]:
                for load in LOADS if args.load == "both" else [args.load]:
                    for streams in args.streams:
                        row, found = compare(args, Path(folder), dtype, load, streams)
                        rows.append([family, *row])
                        figures[f"{family}/{dtype}/{load}/{streams}"] = found
    head = ["model", "dtype", "lengths", "streams", "doran tokens/s", "share", "transformers tokens/s", "ratio"]
    finish(args, head, rows, figures)


def compare(
    args: argparse.Namespace, folder: Path, dtype: str, load: str, streams: int
) -> tuple[list[str], dict[str, Any]]:
    """One row of the table and the figures behind it."""
    model = load_model(folder)
    vocab, group = model.config.vocab_size, min(args.group, streams)
    rng = random.Random(0)
    prompts = [[rng.randrange(vocab) for _ in range(rng.randint(20, 60))] for _ in range(streams // group)]
    stops = tuple(range(max(1, vocab // args.mean_length))) if load == "varying" else ()
    samplers = {
        "doran": doran_sampler(args, folder, prompts, group, stops, DTYPES[dtype]),
        "transformers": transformers_sampler(args, folder, prompts, group, stops, DTYPES[dtype]),
    }

    def timed(sample: Callable[[], int]) -> Callable[[], float]:
        def run() -> float:
            made: list[int] = []
            elapsed = seconds(lambda: made.append(sample()))
            return made[0] / elapsed

        return run

    speed = rounds({name: timed(sample) for name, sample in samplers.items()}, args.rounds)
    times = ratio(speed["doran"], speed["transformers"])
    context = sum(map(len, prompts)) // len(prompts) + args.new_tokens // 2
    work = flops_per_token(model.config, context) / matmul_peak(DTYPES[dtype])
    share = sorted(speed["doran"])[len(speed["doran"]) // 2] * work
    row = [
        dtype,
        load,
        str(streams),
        spread(speed["doran"]),
        f"{share:.0%}",
        spread(speed["transformers"]),
        f"{times:.1f}",
    ]
    return row, {"tokens_per_second": speed, "ratio": times, "share": share}


def doran_sampler(
    args: argparse.Namespace,
    folder: Path,
    prompts: list[list[int]],
    group: int,
    stops: tuple[int, ...],
    dtype: torch.dtype,
) -> Callable[[], int]:
    """Samples everything once and returns the number of tokens made."""
    compute = torch.bfloat16 if dtype == torch.bfloat16 else None
    engine = Engine(load_model(folder), max_batch=len(prompts) * group, compute_dtype=compute)
    params = [SamplingParams(args.new_tokens, seed=i, stop_token_ids=stops) for i in range(len(prompts))]
    return lambda: sum(len(c.token_ids) for same in engine.generate(prompts, params, n=group) for c in same)


def transformers_sampler(
    args: argparse.Namespace,
    folder: Path,
    prompts: list[list[int]],
    group: int,
    stops: tuple[int, ...],
    dtype: torch.dtype,
) -> Callable[[], int]:
    """The same with left-padded prompts and `generate`; what follows a row's first stop token is not counted."""
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(
        max_new_tokens=args.new_tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        num_return_sequences=group, eos_token_id=list(stops) or None, pad_token_id=0,
    )  # fmt: skip
    model.generation_config = config

    def sample() -> int:
        with torch.inference_mode():
            new = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, longest:]
        if not stops:
            return new.numel()
        stopped = torch.isin(new, torch.tensor(stops))
        before = stopped.cumsum(1) - stopped.long()  # stop tokens strictly before each place
        return int((before == 0).sum())

    return sample


if __name__ == "__main__":
    main()
