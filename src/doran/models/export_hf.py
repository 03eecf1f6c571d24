"""Plain Hugging Face folders from any source (quantised, FP8, GGUF), and PEFT adapters as a low-rank difference of two.

An adapter here is found, not remembered: the difference to a base model is split by its singular values, and what does
not fit the rank is named as a loss. For weights trained as LoRA and merged, that is nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from doran.arch.config import ModelConfig
from doran.arch.tensors import tensors
from doran.base.errors import UsageError
from doran.base.files import disk_errors, write_json
from doran.formats.peft import write_peft
from doran.formats.safetensors_folder import write_folder
from doran.models.gguf import GGUFSource
from doran.models.quantize import copy_companions
from doran.models.source import Source, plain
from doran.models.weights import open_source
from doran.text.gguf import from_metadata

TOLERANCE = 1e-3  # of a matrix's change that an adapter may miss: below what bf16 keeps


def export_hf(source: str | Path, out: str | Path, dtype: torch.dtype | None = None) -> ModelConfig:
    """Write a plain folder at `out`; `dtype` None keeps each tensor's own. UsageError: `out` is in use."""
    found, out = open_source(source), Path(out)
    if (out / "config.json").exists():
        raise UsageError(f"{out} already holds a model", hint="give a new folder")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)

    def convert() -> Iterator[tuple[str, Tensor]]:
        for name, _ in tensors(found.config):
            value = plain(found.get(name))
            keep = dtype is None or name.endswith(("mlp.gate.weight", "e_score_correction_bias"))
            yield name, value if keep else value.to(dtype)

    write_folder(out, convert())
    copy_companions(Path(source), out)
    if isinstance(found, GGUFSource) and "tokenizer.ggml.tokens" in found.file.metadata:
        from_metadata(found.file.metadata, str(source)).save(out)
    stored = plain(found.get("model.embed_tokens.weight")).dtype if dtype is None else dtype
    config = replace(found.config, quantization_config=None, torch_dtype=str(stored).removeprefix("torch."))
    write_json(out / "config.json", config.to_hf())
    return config


@dataclass
class Adapter:
    """A LoRA in PEFT's terms: `pairs[module]` is (A (r, in), B (out, r)); `lost`: words and reasons."""

    rank: int
    pairs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)


def find_adapter(source: Source, base: Source, rank: int) -> Adapter:
    """The best adapter of `rank` from base to source: truncated singular values of each matrix's change."""
    shapes = dict(tensors(source.config))
    if shapes != dict(tensors(base.config)):
        raise UsageError(
            "--base: its tensors have other shapes than the model's", hint="name the model it was trained from"
        )
    found = Adapter(rank)
    for name, shape in shapes.items():
        change = plain(source.get(name)).float() - plain(base.get(name)).float()
        if not bool(change.any()):
            continue
        if len(shape) != 2 or ".experts." in name or not name.startswith("model.layers."):
            found.lost["others"] = (
                f"{name} differs from the base's, and an adapter holds only attention and feed-forward"
            )
            continue
        u, s, v = torch.svd_lowrank(change, q=min(rank + 8, *shape), niter=6)
        root = s[:rank].sqrt()
        a, b = (v[:, :rank] * root).T.contiguous(), (u[:, :rank] * root).contiguous()
        missed = float((change - b @ a).norm() / change.norm())
        if missed > TOLERANCE:
            found.lost["rank"] = f"rank {rank} misses {100 * missed:.1f}% of the change of {name}"
        found.pairs[name.removesuffix(".weight")] = (a, b)
    return found


def export_peft(
    source: str | Path, base: str | Path, out: str | Path, rank: int, accept: Collection[str] = ()
) -> Adapter:
    """Write adapter_config.json and adapter_model.safetensors. UsageError: a loss, or nothing differs."""
    found = find_adapter(open_source(source), open_source(base), rank)
    for word, reason in found.lost.items():
        if word not in accept:
            raise UsageError(reason, hint=f"raise --rank, add --accept {word}, or use --format hf")
    if not found.pairs:
        raise UsageError("the model's matrices are those of --base: there is nothing to put in an adapter",
                         hint="name the model that training started from")  # fmt: skip
    write_peft(Path(out), found.pairs, rank, float(rank), str(base))
    copy_companions(Path(source), Path(out))
    return found


class Adapted:
    """Base and adapter as a source again: what a reader of the adapter would compute with."""

    is_quantized = False

    def __init__(self, base: Source, adapter: Adapter) -> None:
        self.base, self.adapter, self.config = base, adapter, base.config

    def get(self, name: str) -> Tensor:
        """The base's tensor, its matrix changed by B A."""
        value = plain(self.base.get(name)).float()
        pair = self.adapter.pairs.get(name.removesuffix(".weight"))
        return value if pair is None else value + pair[1] @ pair[0]
