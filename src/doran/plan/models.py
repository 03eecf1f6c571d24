"""A model to plan for, found by name, folder or config.json, and the shapes of released ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from doran.arch import presets
from doran.arch.config import ModelConfig, load_config
from doran.base.errors import ArtifactError, ConfigError, suggest


def llama3_405b() -> ModelConfig:
    """Llama 3.1 405B (2407.21783 table 3)."""
    return replace(
        presets.llama3_8b(), hidden_size=16384, intermediate_size=53248, num_hidden_layers=126, num_attention_heads=128,
        num_key_value_heads=8, head_dim=128,
    )  # fmt: skip


NAMED: dict[str, Callable[[], ModelConfig]] = {
    "deepseek-v3": presets.deepseek_v3,
    "deepseek-r1": presets.deepseek_v3,
    "llama3.1-8b": presets.llama3_8b,
    "llama3.1-405b": llama3_405b,
    **{f"qwen2.5-{size}": partial(presets.qwen2_5, size) for size in ("0.5b", "1.5b", "3b", "7b", "14b", "32b", "72b")},
}


def find_model(text: str) -> ModelConfig:
    """The shape by preset name, model folder or config file; ConfigError or ArtifactError in one line otherwise."""
    if text.lower() in NAMED:
        return NAMED[text.lower()]()
    path = Path(text)
    if path.is_dir():
        return load_config(path)
    if not path.exists():
        raise ConfigError(
            f"no model {text!r}", hint=f"{suggest(text.lower(), NAMED)}; or give a folder, config.json or recipe"
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", hint="give a config.json") from None
    if not isinstance(raw, dict):
        raise ArtifactError(f"{path} holds no table", hint="give a config.json")
    return ModelConfig.from_hf(raw, where=str(path))
