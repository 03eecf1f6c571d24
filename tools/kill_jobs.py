"""The small jobs that kill_test.py kills: one of each kind of training, on models of a few thousand parameters.

A job is what a command line does: it trains into a folder, goes on from what is there, and gives an exit code. Where
there is a verb the job is that verb with its options; distillation with probabilities has none, so it is a function.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from doran.cli import app

Job = Callable[[Path], int]

STEPS = 24
EVERY = ("train.checkpoint_every_steps=2", "train.warmup_steps=2")
ROLLOUT = (
    f"train.steps={STEPS // 2}", "train.prompts_per_step=4", "train.group_size=4", "train.max_new_tokens=16",
    "train.lr=1e-3", *EVERY,
)  # fmt: skip


def make_jobs(folder: Path) -> dict[str, Job]:
    """Jobs by name; their models and data are written to `folder`."""
    teacher, student = write_models(folder)
    texts, talks = write_texts(folder)
    config = str(teacher / "config.json")
    rl = ("--model", str(student), "--task", "arithmetic", "--style", "plain", "--pool", "60", "--reward", "language=1",
          *ROLLOUT)  # fmt: skip
    return {
        "pretrain": verb(
            "pretrain", "--data", str(texts), "--config", config, "--tokenizer", str(teacher), "--window", "64",
            f"train.steps={STEPS}", "train.tokens_per_batch=256", "train.optimizer=muon", *EVERY,
        ),
        "sft": verb(
            "sft", "--model", str(student), "--data", str(talks), "--style", "plain", "train.tokens_per_batch=256",
            "train.epochs=3", "train.optimizer=adamw8bit", "train.activation_checkpointing=true", *EVERY,
        ),
        "sft LoRA": verb(
            "sft", "--model", str(teacher), "--data", str(talks), "--style", "plain", "--lora-rank", "4",
            "train.tokens_per_batch=256", "train.epochs=3", *EVERY,
        ),
        "grpo": verb(
            "rl", *rl, "train.beta=0.05", "train.reference_refresh_steps=5", "train.minibatches=2",
            "train.max_refills=1",
        ),
        "grpo ahead": verb(
            "rl", *rl, "train.async_rollouts=true", "train.replay_groups=8", "train.choice=variance",
            "train.entropy_target=1.0",
        ),
        "distill": lambda out: distil(teacher, student, out),
    }  # fmt: skip


def verb(name: str, *args: str) -> Job:
    """`doran NAME ARGS --out OUT`."""
    return lambda out: app.run([name, *args, "--out", str(out)])


def distil(teacher: Path, student: Path, out: Path) -> int:
    """On-policy distillation: the student samples, the teacher scores every token."""
    from doran.base.config import build
    from doran.evals.run import plain_style
    from doran.models.weights import load_model
    from doran.recipes.questions import Question, dialect, drawing
    from doran.tasks.task import get_task
    from doran.text.tokenizer import Tokenizer
    from doran.train.distill import OnPolicySettings, run_on_policy

    tokenizer, task = Tokenizer.load(student), get_task("arithmetic")
    questions = [Question(item, task) for item in task.generate("train", 60, 0)]
    settings = {
        "steps": STEPS // 2, "prompts_per_step": 4, "max_new_tokens": 16, "lr": 1e-3, "checkpoint_every_steps": 2,
    }  # fmt: skip
    run_on_policy(
        load_model(student), load_model(teacher), dialect(tokenizer, plain_style),
        drawing({"arithmetic": questions}, {"arithmetic": 1.0}), build(OnPolicySettings, settings), out,
        add_files=tokenizer.save,
    )  # fmt: skip
    return 0


def write_models(folder: Path) -> tuple[Path, Path]:
    """A DeepSeek-V3 shape with experts and MTP (the teacher) and a Qwen2 shape, with one tokenizer."""
    from doran.arch.presets import tiny
    from doran.models.families import build
    from doran.models.weights import save_model
    from doran.text.tokenizer import train_bpe

    sentences = [sentence(random.Random(i)) for i in range(200)]
    tokenizer = train_bpe(sentences, vocab_size=400, whole_numbers_up_to=99)
    made: list[Path] = []
    for name, family in (("teacher", "deepseek_v3"), ("student", "qwen2")):
        config = tiny(
            family, vocab_size=tokenizer.vocab_size, hidden_size=32, num_hidden_layers=2, max_position_embeddings=256,
            bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id,
        )  # fmt: skip
        save_model(build(config, seed=len(made)), folder / name)
        tokenizer.save(folder / name)
        made.append(folder / name)
    return made[0], made[1]


def write_texts(folder: Path) -> tuple[Path, Path]:
    """Documents for pretraining, and questions with answers."""
    rng, texts, talks = random.Random(7), folder / "texts.jsonl", folder / "talks.jsonl"
    rows = [{"text": " ".join(sentence(rng) for _ in range(rng.randint(2, 9)))} for _ in range(200)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pairs = [dict(zip(("prompt", "completion"), sentence(rng).split(" = "), strict=True)) for _ in range(120)]
    talks.write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    return texts, talks


def sentence(rng: random.Random) -> str:
    """A sum and its value."""
    a, b = rng.randint(0, 49), rng.randint(0, 49)
    return f"도란도란 think: {a} + {b} = {a + b}"
