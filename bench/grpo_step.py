"""A whole GRPO step on CPU, sampling, scoring and update: doran against TRL's GRPOTrainer. Time and peak memory.

Same Qwen2-shaped random weights, prompts, group size, longest completion, reward, AdamW, no KL. `full`: every
completion has the full length; `varied`: one token in 48 is a stop token, so lengths vary as they do in RL. Each
contender runs in a process of its own, whose peak resident memory is reported; rounds take turns. TRL needs a Python
that has it: --trl-python.

    python bench/grpo_step.py --trl-python VENV/bin/python --dtype fp32 bf16 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared import finish, parser, ratio, spread, start

PROMPTS, GROUP = 8, 8
STOP_ONE_IN = 48
SHAPE = {
    "model_type": "qwen2", "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 4, "intermediate_size": 640, "max_position_embeddings": 1024, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True, "initializer_range": 0.05,
}  # fmt: skip


def main() -> None:
    """Prepare the folder, run the children in turns, print a table; or be a child."""
    made = parser(__doc__ or "")
    made.add_argument("--trl-python", type=Path, default=Path(sys.executable), help="a Python with trl installed")
    made.add_argument("--dtype", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    made.add_argument("--lengths", nargs="+", choices=["full", "varied"], default=["full", "varied"])
    made.add_argument("--tokens", type=int, default=128, help="longest completion")
    made.add_argument("--steps", type=int, default=3, help="timed steps of a round, after one that warms up")
    made.add_argument("--child", choices=["doran", "trl"], help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.child:
        child(args)
        return
    start(args)
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder))
        for dtype in args.dtype:
            for lengths in args.lengths:
                found = compare(args, Path(folder), dtype, lengths)
                figures[f"{dtype}/{lengths}"] = found
                rows.append(row(dtype, lengths, found))
    head = [
        "dtype",
        "lengths",
        "doran ms a step",
        "TRL ms a step",
        "TRL / doran",
        "doran MiB",
        "TRL MiB",
        "doran / TRL",
    ]
    finish(args, head, rows, figures)


def compare(args: Any, folder: Path, dtype: str, lengths: str) -> dict[str, list[dict[str, Any]]]:
    """What the children of each contender measured, round by round."""
    found: dict[str, list[dict[str, Any]]] = {"doran": [], "trl": []}
    for _ in range(args.rounds):
        for who, python in (("doran", sys.executable), ("trl", args.trl_python)):
            command = [
                str(python), __file__, "--child", who, "--folder", str(folder), "--dtype", dtype, "--lengths", lengths,
                "--tokens", str(args.tokens), "--steps", str(args.steps),
                *(["--threads", str(args.threads)] if args.threads else []),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
            if done.returncode:
                sys.exit(f"error: {who} failed\n{done.stderr[-2000:]}")
            found[who].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{dtype} {lengths} {who}: {found[who][-1]}", file=sys.stderr, flush=True)
    return found


def row(dtype: str, lengths: str, found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One line of the table."""
    times = {who: [1000 * statistics.median(r["seconds"]) for r in runs] for who, runs in found.items()}
    peaks = {who: [r["peak"] / 2**20 for r in runs] for who, runs in found.items()}
    return [
        dtype, lengths, spread(times["doran"]), spread(times["trl"]), f"{ratio(times['trl'], times['doran']):.2f}",
        spread(peaks["doran"]), spread(peaks["trl"]), f"{ratio(peaks['doran'], peaks['trl']):.2f}",
    ]  # fmt: skip


def make_folder(folder: Path) -> None:
    """A tokenizer and random weights that both load."""
    from doran.arch.config import ModelConfig
    from doran.models.families import build
    from doran.models.weights import save_model
    from doran.text.tokenizer import train_bpe

    tokenizer = train_bpe([question(i) for i in range(200)], 1000, whole_numbers_up_to=199)
    save_model(build(ModelConfig.from_hf({**SHAPE, "vocab_size": tokenizer.vocab_size}), seed=0), folder)
    tokenizer.save(folder)


def question(i: int) -> str:
    """Prompt number i."""
    return f"User: Use {i % 17}, {i % 13} and {i % 11} to make {i % 97}.\nAssistant:"


def stop_ids(vocab_size: int, lengths: str) -> list[int]:
    """The tokens that end a completion: none, or one in 48 of the vocabulary."""
    return [] if lengths == "full" else list(range(300, vocab_size, STOP_ONE_IN))[: vocab_size // STOP_ONE_IN]


def child(args: Any) -> None:
    """Measure one contender and print {"seconds": [...], "cpu": [...], "peak": bytes, "tokens": mean length}."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    run: Callable[..., dict[str, Any]] = doran_steps if args.child == "doran" else trl_steps
    found = run(args.folder, args.dtype[0] == "bf16", args.lengths[0], args.tokens, args.steps)
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(found))


def doran_steps(folder: Path, bf16: bool, lengths: str, tokens: int, steps: int) -> dict[str, Any]:
    """Steps of run_grpo."""
    from doran.base.runlog import read_metrics
    from doran.models.weights import load_model
    from doran.text.tokenizer import Tokenizer
    from doran.train.grpo import GrpoSettings, run_grpo
    from doran.train.rollout import Dialect, Reward, draw_from

    tokenizer = Tokenizer.load(folder)
    settings = GrpoSettings(
        steps=steps + 1, lr=1e-5, prompts_per_step=PROMPTS, group_size=GROUP, max_new_tokens=tokens, bf16=bf16,
        rollout_bf16=bf16, checkpoint_every_s=None, samples_per_step=0, tis_cap=None, warmup_steps=0,
    )  # fmt: skip
    dialect = Dialect(tokenizer.encode, tokenizer.decode, tuple(stop_ids(tokenizer.vocab_size, lengths)))
    parity = Reward("parity", 1.0, lambda items, texts, completions: [float(len(t) % 2) for t in texts])
    draw = draw_from([question(i) for i in range(200)])
    cpu: list[float] = []

    def clock() -> dict[str, float]:
        cpu.append(time.process_time())
        return {}

    with tempfile.TemporaryDirectory() as out:
        model = load_model(folder)
        run_grpo(model, dialect, draw, [parity], settings, Path(out), watch=clock, watch_every=1)
        rows = read_metrics(Path(out) / "metrics.jsonl")[1:]
    seconds = [r["step_time"] for r in rows]
    return {"seconds": seconds, "cpu": differences(cpu), "tokens": rows[-1]["completions/mean_length"]}


def differences(marks: list[float]) -> list[float]:
    """From each mark to the next."""
    return [b - a for a, b in zip(marks, marks[1:], strict=False)]


def trl_steps(folder: Path, bf16: bool, lengths: str, tokens: int, steps: int) -> dict[str, Any]:
    """Steps of GRPOTrainer, timed from callback to callback."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from transformers.utils.logging import disable_progress_bar
    from trl import GRPOConfig, GRPOTrainer

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token  # then TRL ends a completion at the padding, whichever token stopped it
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    stops = stop_ids(len(tokenizer), lengths)
    seen: list[int] = []
    marks: list[float] = []
    cpu: list[float] = []

    class Clock(TrainerCallback):
        """Notes the end of every step."""

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            """Called after the optimizer."""
            marks.append(time.perf_counter())
            cpu.append(time.process_time())

    def parity(completions: list[str], completion_ids: list[list[int]], **more: Any) -> list[float]:
        seen.extend(len(ids) for ids in completion_ids)
        return [float(len(text) % 2) for text in completions]

    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out, per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP,
            max_completion_length=tokens, max_steps=steps + 1, learning_rate=1e-5, beta=0.0, temperature=1.0, bf16=bf16,
            use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", gradient_checkpointing=False,
            dataloader_pin_memory=False, disable_tqdm=True,
            generation_kwargs={"eos_token_id": stops} if stops else {"min_new_tokens": tokens},
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=model, reward_funcs=parity, args=config, processing_class=tokenizer, callbacks=[Clock()],
            train_dataset=Dataset.from_list([{"prompt": question(i)} for i in range(200)]),
        )  # fmt: skip
        trainer.train()
    return {"seconds": differences(marks), "cpu": differences(cpu), "tokens": sum(seen) / len(seen)}


if __name__ == "__main__":
    main()
