"""A recipe's YAML as stage plans, without the settings classes, which need torch. `doran run` checks the keys.

Lengths are assumed here (`doran run --dry-run` measures them on the recipe's own text). Defaults are those of the
settings; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from doran.arch.config import ModelConfig
from doran.base.config import apply_overrides, load_yaml
from doran.base.errors import ConfigError
from doran.base.files import read_json
from doran.plan.hardware import Efficiency, Hardware
from doran.plan.stages import Grpo, Pretrain, Sft, StagePlan, plan_grpo, plan_pretrain, plan_sft

DOCUMENT, QUESTION = 100, 25  # tokens, of the generated corpus and of a Countdown question
DEFAULTS: dict[str, dict[str, Any]] = {
    "pretrain": {"steps": 1000, "tokens_per_batch": 8192, "accumulate": 1, "optimizer": "adamw", "bf16": True,
                 "mtp_lambda": 0.3, "mtp_share": 1.0},
    "sft": {"epochs": 2, "tokens_per_batch": 8192, "optimizer": "adamw", "bf16": True},
    "rl": {"steps": 100, "prompts_per_step": 16, "group_size": 16, "max_new_tokens": 256, "update_epochs": 1,
           "beta": 0.0, "tokens_per_micro_batch": 16384, "max_batch": 256, "optimizer": "adamw", "bf16": True,
           "rollout_bf16": True},
}  # fmt: skip


def recipe_plans(path: Path, overrides: Sequence[str], hardware: Hardware, efficiency: Efficiency) -> list[StagePlan]:
    """A plan of every stage that trains, in the file's order. ConfigError names a stage that cannot be understood."""
    values = apply_overrides(load_yaml(path), list(overrides))
    vocabulary = (values.get("tokenizer") or {}).get("vocab_size", 768)
    config: ModelConfig | None = None
    begun = values.get("model")
    shapes: dict[str, ModelConfig] = {"": _begun_with(Path(begun), values, path)} if isinstance(begun, str) else {}
    plans = []
    for name, stage in values.items():
        if not isinstance(stage, Mapping) or not isinstance(stage.get("train"), Mapping):
            continue
        if isinstance(stage.get("model"), Mapping):
            keys = {**stage["model"], "vocab_size": vocabulary}
            shapes[name] = ModelConfig.from_hf(keys, where=f"{path}: {name}.model")
        config = _model_of(name, shapes)
        if config is None:
            raise ConfigError(f"{path}: {name} comes before any stage with a model", hint="give the base stage first")
        plans.append(_stage(name, stage, config, hardware, efficiency))
    if not plans:
        raise ConfigError(f"{path}: no stage that trains", hint="a stage has a `train:` part; see recipes/tiny-r1.yaml")
    return plans


def _begun_with(folder: Path, values: Mapping[str, Any], path: Path) -> ModelConfig:
    """A localise recipe begins with a folder's model, and gives it new tokens."""
    found = next((file for file in (folder / "config.json", folder / "model" / "config.json") if file.is_file()), None)
    if found is None:
        raise ConfigError(f"{path}: model: {folder} has no config.json", hint="give a model folder, such as model=DIR")
    config = ModelConfig.from_hf(read_json(found), where=str(found))
    return replace(config, vocab_size=config.vocab_size + (values.get("extend") or {}).get("num_new", 400))


def _model_of(name: str, shapes: Mapping[str, ModelConfig]) -> ModelConfig | None:
    """The student's stages have the student's shape, the others the first one's."""
    student = name.startswith("student") or name == "distill"
    if name in shapes:
        return shapes[name]
    return shapes.get("student_base") if student and "student_base" in shapes else next(iter(shapes.values()), None)


def _stage(name: str, stage: Mapping[str, Any], config: ModelConfig, hardware: Hardware, e: Efficiency) -> StagePlan:
    kind = "pretrain" if "model" in stage or name == "pretrain" else "sft" if "sampling" in stage else "rl"
    t = {**DEFAULTS[kind], **stage["train"]}
    dtype = "bfloat16" if t["bf16"] else "float32"
    if kind == "pretrain":
        return plan_pretrain(
            config,
            Pretrain(
                steps=t["steps"], tokens_per_step=t["tokens_per_batch"] * t["accumulate"], length=DOCUMENT,
                micro_tokens=t["tokens_per_batch"], dtype=dtype, optimizer=t["optimizer"],
                activation_checkpointing=t.get("activation_checkpointing", False),
                mtp=t["mtp_share"] if t["mtp_lambda"] else False,
            ), hardware, e, name,
        )  # fmt: skip
    if kind == "sft":
        asked = stage["sampling"]
        questions = sum((asked.get("questions") or {}).values())
        length = QUESTION + max(1, asked.get("max_new_tokens", 320) // 2)
        examples = max(1, questions * min(asked.get("keep", 1), asked.get("samples", 2)) + asked.get("general", 0))
        settings = Sft(examples=examples, length=length, epochs=t["epochs"], micro_tokens=t["tokens_per_batch"],
                       dtype=dtype, optimizer=t["optimizer"],
                       activation_checkpointing=t.get("activation_checkpointing", False))  # fmt: skip
        return plan_sft(config, settings, hardware, e, name)
    return plan_grpo(
        config,
        Grpo(
            steps=t["steps"], prompts_per_step=t["prompts_per_step"], group_size=t["group_size"],
            prompt_tokens=QUESTION,
            completion_tokens=max(1, t["max_new_tokens"] // 2), max_new_tokens=t["max_new_tokens"],
            updates=t["update_epochs"], reference=t["beta"] > 0, micro_tokens=t["tokens_per_micro_batch"],
            max_batch=t["max_batch"], dtype=dtype, optimizer=t["optimizer"],
            activation_checkpointing=t.get("activation_checkpointing", False),
            rollout_dtype="bfloat16" if t["rollout_bf16"] else dtype,
        ), hardware, e, name,
    )  # fmt: skip
