"""A model whose vocabulary grew: new rows in embedding and head, made from the rows of each new token's pieces."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from doran.models.decoder import Decoder
from doran.models.families import empty
from doran.text.extend import Extension

TABLES = ("model.embed_tokens.weight", "lm_head.weight")
"""The parameters with one row a token; the MTP module shares them."""


@torch.no_grad()
def extend_model(model: Decoder, extension: Extension) -> Decoder:
    """A copy with rows for the new tokens; every old row, and all else, keeps its bits.

    Embedding: the mean of the pieces' rows. Head: the first piece's row, since at the place where the old model chose
    that piece the new one must choose the whole token; a tied embedding keeps the mean. Rows that a padded table
    already has are used before it grows.
    """
    rows = max(model.config.vocab_size, extension.first_id + extension.num_new)
    grown = empty(replace(model.config, vocab_size=rows), model.dtype).to_empty(device="cpu")
    old = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, value in (dict(grown.named_parameters()) | dict(grown.named_buffers())).items():
        value.copy_(_grown(old[name], rows, extension, name) if name in TABLES else old[name])
    return grown


def _grown(table_VD: Tensor, rows: int, extension: Extension, name: str) -> Tensor:
    out = table_VD.new_empty(rows, table_VD.shape[1])
    out[: len(table_VD)] = table_VD
    out[len(table_VD) :] = table_VD.float().mean(0)
    for number, pieces in enumerate(extension.pieces):
        chosen = pieces if name == TABLES[0] else pieces[:1]
        out[extension.first_id + number] = table_VD[chosen].float().mean(0)
    return out
