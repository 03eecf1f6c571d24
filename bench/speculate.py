"""What speculation is worth in native steps, one stream: measured on a trained model, or priced on a larger shape.

With --model: tokens a second with and without drafts, in turns, on Countdown questions; acceptance; and that every
completion is the same. With --shape: random weights, so nothing is accepted, but the price of a step with k drafts
is what it would be; then the speed-up that a share of right drafts would give, (1 - a^(k+1)) / (1 - a) tokens a step.

    python bench/speculate.py --model runs/latest/stages/02-base/model --threads 1
    python bench/speculate.py --shape dense --threads 1
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from shared import DTYPES, finish, parser, ratio, rounds, start

from doran.arch import presets
from doran.engine import Engine, SamplingParams
from doran.engine.request import Speculation
from doran.models.families import build
from doran.models.weights import load_model
from doran.tasks import get_task
from doran.text.tokenizer import Tokenizer

MEASURED = [
    Speculation(), Speculation("ngram", 2), Speculation("mtp", 1, 0.0), Speculation("mtp", 2, 0.0),
    Speculation("mtp", 2), Speculation("mtp", 4),
]  # fmt: skip
PRICED = [Speculation(), *(Speculation("mtp", k, 0.0) for k in (1, 2, 3, 4))]
SHAPES = {
    "dense": dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=16, first_k_dense_replace=17),
    "moe": dict(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=12, first_k_dense_replace=1, n_routed_experts=64,
        num_experts_per_tok=6, moe_intermediate_size=512, n_shared_experts=2, n_group=1, topk_group=1,
    ),
}  # fmt: skip
COMMON = dict(
    vocab_size=32000, num_attention_heads=16, q_lora_rank=None, kv_lora_rank=256, qk_nope_head_dim=64,
    qk_rope_head_dim=32, v_head_dim=64, num_nextn_predict_layers=1, max_position_embeddings=1024,
    tie_word_embeddings=False,
)  # fmt: skip
SHARES = (0.5, 0.7, 0.8, 0.9, 1.0)


def main() -> None:
    """Print one table."""
    made = parser(__doc__ or "")
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, help="folder with model and tokenizer, trained with MTP")
    what.add_argument("--shape", choices=sorted(SHAPES), help="a larger shape with random weights")
    made.add_argument("--prompts", type=int, default=24)
    made.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    args = made.parse_args()
    start(args)
    torch.manual_seed(0)
    measure(args) if args.model else price(args)


def measure(args: argparse.Namespace) -> None:
    """A trained model."""
    model, tokenizer = load_model(args.model), Tokenizer.load(args.model)
    asked = [[{"role": "user", "content": x.prompt}] for x in get_task("countdown").generate("test", args.prompts, 5)]
    prompts = [tokenizer.encode(tokenizer.apply_chat(x, add_generation_prompt=True), specials=True) for x in asked]
    rows, figures = [], {}
    for temperature in (0.0, 1.0):
        params = [
            SamplingParams(200, temperature, seed=i, stop_token_ids=(tokenizer.eos_id,)) for i in range(args.prompts)
        ]
        engines = {s: Engine(model, 1, compute_dtype=DTYPES[args.dtype], speculation=s) for s in MEASURED}
        plain = said(engines[MEASURED[0]], prompts, params)
        same = {
            s: sum(a == b for a, b in zip(said(e, prompts, params), plain, strict=True)) for s, e in engines.items()
        }
        speeds = rounds({str(s): lambda e=e, p=params: speed(e, prompts, p) for s, e in engines.items()}, args.rounds)
        for s, e in engines.items():
            stats = e.stats
            share = f"{stats.accepted_tokens / stats.draft_tokens:.3f}" if stats.draft_tokens else ""
            rows.append([
                f"{temperature:g}", *named(s), share, f"{stats.decode_tokens / stats.decode_steps:.2f}",
                f"{statistics.median(speeds[str(s)]):,.0f}", f"{ratio(speeds[str(s)], speeds[str(MEASURED[0])]):.2f}",
                f"{same[s]}/{len(plain)}",
            ])  # fmt: skip
        figures[str(temperature)] = speeds
    head = ["temperature", "drafts", "most", "least chance", "accepted", "tokens a step", "tokens/s", "ratio", "same"]
    finish(args, head, rows, figures)


def price(args: argparse.Namespace) -> None:
    """A shape with random weights: what a step costs with k drafts, and what it would bring."""
    dtype = DTYPES[args.dtype]
    model = build(presets.tiny("deepseek_v3", **COMMON, **SHAPES[args.shape]), dtype=dtype)
    engines = {s: Engine(model, 1, speculation=s) for s in PRICED}
    params = [SamplingParams(48, 1.0)]
    prompt = [list(range(100, 200))]
    steps = rounds({str(s): lambda e=e: step_ms(e, prompt, params) for s, e in engines.items()}, args.rounds)
    plain = steps[str(PRICED[0])]
    rows = []
    for s in PRICED:
        cost = ratio(steps[str(s)], plain)
        k = s.draft_tokens if s.drafts != "none" else 0
        worth = [(k + 1 if a == 1 else (1 - a ** (k + 1)) / (1 - a)) / cost for a in SHARES]
        rows.append([str(k), f"{statistics.median(steps[str(s)]):.2f}", f"{cost:.2f}", *(f"{w:.2f}" for w in worth)])
    head = ["drafts", "ms a step", "of a plain one", *(f"speed-up at {a:g}" for a in SHARES)]
    finish(args, head, rows, {"ms": steps, "parameters": sum(p.numel() for p in model.parameters())})


def said(engine: Engine, prompts: list[list[int]], params: list[SamplingParams]) -> list[list[int]]:
    """One stream after another."""
    return [engine.generate([p], s)[0][0].token_ids for p, s in zip(prompts, params, strict=True)]


def speed(engine: Engine, prompts: list[list[int]], params: list[SamplingParams]) -> float:
    """Decoded tokens a second, of the decode steps alone."""
    engine.stats.reset()
    said(engine, prompts, params)
    return engine.stats.decode_tokens / engine.stats.decode_seconds


def step_ms(engine: Engine, prompts: list[list[int]], params: list[SamplingParams]) -> float:
    """Milliseconds a decode step."""
    engine.stats.reset()
    said(engine, prompts, params)
    return 1e3 * engine.stats.decode_seconds / engine.stats.decode_steps


def named(s: Speculation) -> list[str]:
    """Cells of a table."""
    if s.drafts == "none":
        return ["none", "", ""]
    return [s.drafts, str(s.draft_tokens), f"{s.least_chance:g}" if s.drafts == "mtp" else ""]


if __name__ == "__main__":
    main()
