"""Whole models: one decoder, its families, and its weights in and out.

`build(config, seed)` makes one, `load_model(folder)` reads one, `save_model(model, folder)` writes one.
"""

from doran.layers.moe import RouterStats, update_router_bias
from doran.models.decoder import Decoder
from doran.models.families import build, empty
from doran.models.weights import load_model, save_model

__all__ = ["Decoder", "RouterStats", "build", "empty", "load_model", "save_model", "update_router_bias"]
