"""From a config to a model. The only place where `model_type` chooses code."""

from __future__ import annotations

import torch

from doran.arch.config import ModelConfig
from doran.models import deepseek_v3, llama, qwen2, qwen3
from doran.models.decoder import Decoder, initialize

_PARTS = {
    "deepseek_v3": deepseek_v3.make_parts,
    "llama": llama.make_parts,
    "qwen2": qwen2.make_parts,
    "qwen3": qwen3.make_parts,
}


def empty(config: ModelConfig, dtype: torch.dtype = torch.float32) -> Decoder:
    """The model on the meta device: shapes and names, no memory. Router weights and biases are fp32 in any dtype."""
    with torch.device("meta"):
        model = Decoder(config, _PARTS[config.model_type])
    for name, parameter in model.named_parameters():
        if not name.endswith("mlp.gate.weight"):
            parameter.data = parameter.data.to(dtype)
    return model


def build(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> Decoder:
    """A model with random weights drawn from `seed`."""
    model = empty(config, dtype).to_empty(device="cpu")
    initialize(model, seed)
    return model
