"""Adapters between models and files: an adapted model's LoRA written as PEFT does, and read into a model."""

from __future__ import annotations

from pathlib import Path

import torch

from doran.base.errors import ArtifactError
from doran.formats.peft import read_peft, write_peft
from doran.layers.lora import lora_layers, wrap
from doran.models.decoder import Decoder


def save_adapter(model: Decoder, folder: Path, base: str | None = None) -> None:
    """Write the adapters of `model` (layers.lora.add_lora) as a PEFT folder."""
    layers = lora_layers(model)
    first = next(iter(layers.values()))
    rank = len(first.lora_A)
    pairs = {name: (m.lora_A.detach(), m.lora_B.detach()) for name, m in layers.items()}
    write_peft(folder, pairs, rank, first.scaling * rank, base)


@torch.no_grad()
def load_adapter(model: Decoder, folder: Path) -> None:
    """Put a PEFT folder's adapters on `model`, ready to train or to merge. ArtifactError where they do not fit."""
    adapter = read_peft(folder)
    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    for name, (a, b) in adapter.pairs.items():
        fits = name in linears and (b.shape[0], a.shape[1]) == tuple(linears[name].weight.shape)
        if not fits or not name.startswith("model.layers."):
            raise ArtifactError(
                f"{folder}: its {name} does not fit this model", hint="give the adapter's own base model"
            )
    wrap(model, list(adapter.pairs), adapter.rank, adapter.alpha)
    for name, layer in lora_layers(model).items():
        layer.lora_A.copy_(adapter.pairs[name][0])
        layer.lora_B.copy_(adapter.pairs[name][1])
