"""LoRA adapters as PEFT's folders: adapter_config.json and adapter_model.safetensors. Names and tensors, no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from doran.base.errors import ArtifactError
from doran.base.files import disk_errors, read_json, write_json
from doran.formats.safetensors_folder import write_file

CONFIG, WEIGHTS, _PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
Pairs = Mapping[str, tuple[Tensor, Tensor]]
_UNREADABLE = ("use_dora", "alora_invocation_tokens", "modules_to_save", "layer_replication", "trainable_token_indices")


@dataclass(frozen=True)
class PeftAdapter:
    """`pairs[module]` is (A (r, in), B (out, r)); a module's change is alpha / r B A."""

    rank: int
    alpha: float
    pairs: dict[str, tuple[Tensor, Tensor]]
    base: str | None = None


def write_peft(folder: Path, pairs: Pairs, rank: int, alpha: float, base: str | None = None) -> None:
    """Write both files; the config, which makes the folder an adapter, last."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    halves = {f"{_PREFIX}{m}.lora_{h}.weight": t for m, pair in pairs.items() for h, t in zip("AB", pair, strict=True)}
    write_file(folder / WEIGHTS, halves)
    facts: dict[str, Any] = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank, "lora_alpha": alpha,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "target_modules": _targets(pairs), "modules_to_save": None,
    }  # fmt: skip
    write_json(folder / CONFIG, facts)


def read_peft(folder: Path) -> PeftAdapter:
    """Read an adapter. ArtifactError: no adapter, a damaged file, or a kind whose meaning is more than B A."""
    if not (folder / CONFIG).is_file():
        raise ArtifactError(f"{folder}: no {CONFIG}", hint="give the folder of a PEFT adapter")
    config = read_json(folder / CONFIG)
    odd = [key for key in _UNREADABLE if config.get(key)]
    odd += [f"peft_type {config.get('peft_type')}"] if config.get("peft_type") != "LORA" else []
    odd += ["rank_pattern"] if config.get("rank_pattern") or config.get("alpha_pattern") else []
    odd += ["bias"] if config.get("bias", "none") != "none" else []
    if odd:
        raise ArtifactError(
            f"{folder / CONFIG}: {odd[0]} is not supported", hint="merge it with PEFT and use the model"
        )
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{folder / WEIGHTS} cannot be read ({error})", hint="copy it again") from None
    pairs = {}
    for name in tensors:
        if name.startswith(_PREFIX) and name.endswith(".lora_A.weight"):
            module = name[len(_PREFIX) : -len(".lora_A.weight")]
            other = f"{_PREFIX}{module}.lora_B.weight"
            if other not in tensors:
                raise ArtifactError(f"{folder / WEIGHTS} lacks {other}", hint="copy it again")
            pairs[module] = (tensors[name], tensors[other])
    if 2 * len(pairs) != len(tensors):
        strange = next(n for n in tensors if not n.endswith((".lora_A.weight", ".lora_B.weight")))
        raise ArtifactError(f"{folder / WEIGHTS}: {strange} is no LoRA of a linear layer", hint="merge it with PEFT")
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    if config.get("use_rslora"):  # alpha / sqrt(r)
        alpha *= rank**0.5
    return PeftAdapter(rank, alpha, pairs, config.get("base_model_name_or_path"))


def _targets(pairs: Pairs) -> list[str]:
    """Last names, as people write them; whole names beside routed experts, whose stacks share the last names."""
    routed = any(".shared_experts." in module for module in pairs)
    return sorted(pairs if routed else {module.rsplit(".", 1)[1] for module in pairs})
