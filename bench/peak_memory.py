"""Peak memory of one training step at a large vocabulary: are logits ever whole? And what the memory settings save.

    python bench/peak_memory.py logits      # SFT, GRPO, both distillations, vocabulary of 151,936
    python bench/peak_memory.py settings    # plain, activation checkpointing, 8-bit moments, both

Each figure is the rise of the process's peak over what it held before the step, in a process of its own. Times are not
measured here.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

VOCABULARY, TOKENS = 151_936, 2048
SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "tie_word_embeddings": True}
DEEP = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12, "vocab_size": 8192}
LOGITS = ("sft", "grpo", "grpo entropy", "distill topk", "distill on-policy")
SETTINGS = {
    "plain": {},
    "activation_checkpointing": {"activation_checkpointing": True},
    "adamw8bit": {"optimizer": "adamw8bit"},
    "both": {"activation_checkpointing": True, "optimizer": "adamw8bit"},
}


def logits_step(kind: str) -> int:
    """One step of a kind of training over TOKENS learned tokens: bytes that it added to the peak."""
    import torch

    from doran.arch.presets import tiny
    from doran.base.config import build as settings
    from doran.base.device import peak_rss
    from doran.models.families import build
    from doran.train.batch import pack
    from doran.train.distill import OnPolicySettings, TopkSettings, TopkTable, run_on_policy, run_topk
    from doran.train.grpo_settings import GrpoSettings
    from doran.train.rehearsal import rehearse_grpo, rehearse_lm
    from doran.train.samples import Dialect
    from doran.train.sft import SftSettings

    config = tiny("qwen2", vocab_size=VOCABULARY, max_position_embeddings=1024, **SHAPE)
    model, length = build(config, seed=0), 256
    samples = [([1 + j, *range(2, length + 2)], [False] + [True] * length) for j in range(TOKENS // length)]
    teacher = build(config, seed=1) if kind == "distill on-policy" else model
    held = peak_rss()
    if kind == "sft":
        rehearse_lm(model, pack(samples), settings(SftSettings, {}))
    elif kind.startswith("grpo"):
        s = settings(
            GrpoSettings,
            {"prompts_per_step": 1, "group_size": TOKENS // length, "max_new_tokens": length,
             "entropy_coef": 0.01 if "entropy" in kind else 0.0},
        )  # fmt: skip
        rehearse_grpo(model, [[5]], s)
    else:
        with TemporaryDirectory() as folder:
            if kind == "distill topk":
                ids = torch.arange(8).repeat(TOKENS, 1)
                table = TopkTable(ids, torch.full(ids.shape, -3.0), list(range(0, TOKENS + 1, length)))
                s = settings(TopkSettings, {"epochs": 1, "tokens_per_batch": TOKENS, "warmup_steps": 0})
                run_topk(model, samples, table, s, Path(folder))
            else:
                s = settings(
                    OnPolicySettings,
                    {"steps": 1, "prompts_per_step": 4, "samples_per_prompt": 2, "max_new_tokens": length},
                )
                dialect = Dialect(lambda item: [item], lambda ids: "", ())
                run_on_policy(model, teacher, dialect, lambda rng, n: list(range(1, n + 1)), s, Path(folder))
    return peak_rss() - held


def settings_step(changes: dict[str, Any]) -> int:
    """Three next-token updates of a deeper model over 4,096 tokens: bytes that they added to the peak."""
    from doran.arch.presets import tiny
    from doran.base.config import build as settings
    from doran.base.device import peak_rss
    from doran.models.families import build
    from doran.train.batch import pack
    from doran.train.optim import build_optimizer
    from doran.train.pretrain import PretrainSettings, lm_step

    model = build(tiny("qwen2", max_position_embeddings=1024, **DEEP), seed=0)
    batch = pack([(list(range(513)), [True] * 513) for _ in range(8)])
    held, s = peak_rss(), settings(PretrainSettings, changes)
    model.activation_checkpointing = s.activation_checkpointing
    optimizer = build_optimizer(model, s)
    for _ in range(3):
        lm_step(model, optimizer, [batch], s, 1.0)
    return peak_rss() - held


def main() -> None:
    """A table on stdout."""
    what = sys.argv[1] if len(sys.argv) > 1 else "logits"
    if len(sys.argv) > 2:
        print(logits_step(sys.argv[2]) if what == "logits" else settings_step(SETTINGS[sys.argv[2]]))
        return
    whole = TOKENS * VOCABULARY
    print("| step | added to the peak, MiB |" + (" share of the whole logits in fp32 |" if what == "logits" else ""))
    print("|---|---|" + ("---|" if what == "logits" else ""))
    for kind in LOGITS if what == "logits" else SETTINGS:
        command = [sys.executable, __file__, what, kind]
        added = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        share = f" {added / (4 * whole):.2f} |" if what == "logits" else ""
        print(f"| {kind} | {added / 2**20:,.0f} |{share}", flush=True)


if __name__ == "__main__":
    main()
