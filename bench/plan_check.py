"""Predicted against measured: step time, tokens a second and peak memory of twelve different jobs on this machine.

The machine is measured first, as `doran doctor --save` does; then each job runs in a process of its own, so that its
peak memory is its own. Predictions come from plan/ and that profile alone.

    python bench/plan_check.py --profile FILE                # measure the machine into FILE
    python bench/plan_check.py --profile FILE --job 3        # measure one job, print one JSON line
    python bench/plan_check.py --profile FILE --rows ROWS --json OUT    # compare
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared import RECIPE, shape, table

from doran.arch.config import ModelConfig
from doran.plan import Hardware
from doran.plan.hardware import CPU
from doran.plan.profiles import read_profile, save_profile

STEPS = 5
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Task:
    """`kind`: train, score or decode. `tokens` of a step, or sequences decoded. `length` of one text."""

    kind: str
    family: str
    dtype: str
    tokens: int
    length: int
    width: int = 1  # how many times the recipe's widths
    optimizer: str = "adamw"
    mtp: bool = False

    @property
    def name(self) -> str:
        """For the table."""
        words = [self.kind, self.family + (f" x{self.width}" if self.width > 1 else ""), self.dtype]
        words += [f"{self.tokens} sequences" if self.kind == "decode" else f"{self.tokens} tokens", f"of {self.length}"]
        return " ".join([*words, *(["muon"] if self.optimizer == "muon" else []), *(["mtp"] if self.mtp else [])])

    @property
    def config(self) -> ModelConfig:
        """The recipe's shape, widened."""
        config = shape(RECIPE, self.family, mtp=self.mtp)
        w = self.width
        wide = replace(config, hidden_size=w * config.hidden_size, intermediate_size=w * config.intermediate_size)
        heads = {name: w * getattr(config, name) for name in ("num_attention_heads", "num_key_value_heads")}
        return replace(wide, **heads, moe_intermediate_size=w * config.moe_intermediate_size)


TASKS = (
    Task("train", "deepseek_v3", "bf16", 4096, 100, optimizer="muon", mtp=True),
    Task("train", "deepseek_v3", "fp32", 4096, 100),
    Task("train", "deepseek_v3", "bf16", 8192, 200),
    Task("train", "deepseek_v3", "bf16", 4096, 100, width=2),
    Task("train", "qwen2", "bf16", 4096, 100),
    Task("train", "qwen2", "fp32", 4096, 100, optimizer="muon"),
    Task("train", "qwen2", "fp32", 4096, 200, width=3),
    Task("score", "deepseek_v3", "fp32", 8192, 200),
    Task("score", "qwen2", "bf16", 8192, 100),
    Task("decode", "deepseek_v3", "fp32", 128, 100),
    Task("decode", "deepseek_v3", "bf16", 256, 60),
    Task("decode", "qwen2", "fp32", 256, 100),
)
PROMPT = 25


def main() -> None:
    """Do what the options ask for."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--profile", type=Path, required=True)
    made.add_argument("--job", type=int, default=None)
    made.add_argument("--rows", type=Path, default=None, help="file with the JSON lines of all jobs")
    made.add_argument("--json", type=Path, default=None)
    args = made.parse_args()
    if args.job is not None:
        print(json.dumps({"job": args.job, **measure(TASKS[args.job])}), flush=True)
    elif args.rows is not None:
        compare(args)
    else:
        from doran.cli.doctor import measured_profile

        print(save_profile(measured_profile(), args.profile))


def measure(task: Task) -> dict[str, float]:
    """Seconds of a step (median), tokens a second, and the most memory this process held."""
    from doran.base.device import peak_rss

    step, tokens = {"train": train, "score": score, "decode": decode}[task.kind](task)
    step()
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times)
    return {"seconds": seconds, "tokens/s": tokens / seconds, "memory": float(peak_rss())}


def documents(task: Task) -> Any:
    """Packed documents of the task's length."""
    import random

    from doran.train.batch import pack

    rng, vocab = random.Random(0), task.config.vocab_size
    count = task.tokens // task.length
    made = [[rng.randrange(vocab) for _ in range(task.length)] for _ in range(count)]
    return pack([(ids, [True] * len(ids)) for ids in made])


def train(task: Task) -> tuple[Any, int]:
    """The project's own training step."""
    from doran.models.families import build
    from doran.train.optim import build_optimizer
    from doran.train.pretrain import PretrainSettings, lm_step

    settings = PretrainSettings(
        optimizer=task.optimizer, lr=1e-5, bf16=task.dtype == "bf16", mtp_lambda=0.3 if task.mtp else 0.0,
        router_bias_gamma=0.0, balance_alpha=0.0,
    )  # fmt: skip
    model, packed = build(task.config, seed=0), documents(task)
    optimizer = build_optimizer(model, settings)
    return lambda: lm_step(model, optimizer, [packed], settings, 1.0), packed.tokens_T.numel()


def score(task: Task) -> tuple[Any, int]:
    """Forward pass with the log probability of every token."""
    import torch

    from doran.layers.attention import PackedAttend
    from doran.models.families import build
    from doran.train.losses import linear_cross_entropy
    from doran.train.pretrain import head_weight

    model, packed = build(task.config, seed=0), documents(task)

    def step() -> None:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=task.dtype == "bf16"):
            h_TD = model(packed.tokens_T, packed.positions_T, PackedAttend(packed.cu_seqlens), None)
            linear_cross_entropy(h_TD, head_weight(model), packed.targets_T)

    return step, packed.tokens_T.numel()


def decode(task: Task) -> tuple[Any, int]:
    """The engine, all completions of one length."""
    import torch

    from doran.engine import Engine, SamplingParams
    from doran.models.families import build

    model = build(task.config, seed=0)
    engine = Engine(model, max_batch=task.tokens, compute_dtype=torch.bfloat16 if task.dtype == "bf16" else None)
    params = SamplingParams(task.length, temperature=1.0, stop_token_ids=())
    prompts = [[(7 * i + j) % 500 for j in range(PROMPT)] for i in range(task.tokens // 16)]
    return lambda: engine.generate(prompts, params, n=16), task.tokens * task.length


def predict(task: Task, hardware: Hardware) -> dict[str, float]:
    """What plan/ says."""
    from doran.plan.memory import Memory, cache_bytes, stored_parameters, training_memory
    from doran.plan.time import Clock

    config, dtype = task.config, DTYPES[task.dtype]
    clock = Clock(config=config, hardware=hardware, efficiency=CPU, dtype=dtype)
    if task.kind == "train":
        work = clock.train(task.tokens, task.length, task.mtp) + clock.optimize(1, task.optimizer)
        memory = training_memory(
            config, task.tokens, dtype_bytes=4 if task.dtype == "fp32" else 2, optimizer=task.optimizer
        )
    elif task.kind == "score":
        work = clock.score(task.tokens, task.length)
        memory = Memory(weights=4 * stored_parameters(config), activations=clock.forward_bytes(task.tokens))
    else:
        work = clock.score(task.tokens // 16 * PROMPT, PROMPT)
        work += clock.decode(task.tokens, PROMPT, task.length, task.length, task.tokens)
        cache = cache_bytes(config, task.tokens, PROMPT + task.length, 4 if task.dtype == "fp32" else 2)
        memory = Memory(weights=4 * stored_parameters(config), cache=cache)
    tokens = task.tokens * task.length if task.kind == "decode" else task.tokens
    return {"seconds": work.seconds, "tokens/s": tokens / work.seconds, "memory": float(memory.peak)}


def compare(args: argparse.Namespace) -> None:
    """Print the table; with --json write what docs/generate_plan_results.py reads."""
    hardware = read_profile(args.profile)
    rows = {row["job"]: row for row in map(json.loads, args.rows.read_text().splitlines())}
    jobs, body, errors = [], [], {"seconds": [], "tokens/s": [], "memory": []}
    for number, task in enumerate(TASKS):
        if number not in rows:
            print(f"job {number} ({task.name}) was not measured", file=sys.stderr)
            continue
        measured, predicted = rows[number], predict(task, hardware)
        cells = [task.name]
        for key, seen in errors.items():
            error = predicted[key] / measured[key] - 1
            seen.append(abs(error))
            cells += [f"{measured[key]:.4g}", f"{predicted[key]:.4g}", f"{error:+.0%}"]
        body.append(cells)
        jobs.append({"name": task.name, "measured": {k: measured[k] for k in errors}, "predicted": predicted})
    print(table(["job", *(word for key in errors for word in (key, "predicted", "error"))], body))
    print({key: f"median {statistics.median(seen):.0%}" for key, seen in errors.items()})
    if args.json:
        content = {"machine": f"{hardware.name}", "profile": hardware.to_profile(), "note": NOTE, "jobs": jobs}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


NOTE = """\
The CPU's values of the efficiency model (`CPU` in `src/doran/plan/hardware.py`) and the runtime's share of memory were
fitted to these very jobs, so this table shows that one set of values describes them all, not that a new job is met as
well: refitted without the judged job, the median error of its time was 10% (2% to 33%, decoding worst). The profile
(peak, memory bandwidth, cost of an operation) is what `doran doctor --save` measured beside them."""

if __name__ == "__main__":
    main()
