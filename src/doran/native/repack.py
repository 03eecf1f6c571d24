"""Our int8 and int4 matrices into the layout of the packed products (quant.h), by torch's strides alone.

The same bytes as quant.pack, some times faster on one thread, into memory of the caller's choosing: for experts that
are packed each time they come from disk. GGUF's blocks and rows that are no whole panels are quant.pack's alone.

P panels of 16 rows, B blocks of 2 chunks, C chunks of 32 columns; a word is 4 columns of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from doran.native.quant import PANEL

CHUNK = 32
SCALES = 64  # bytes of a block's scales


def panels_of(kind: str, rows: int, columns: int, out_N: Tensor) -> Tensor:
    """`out_N` (uint8, whole panels) as (P, B, bytes of a block), for `repack`."""
    return out_N.view(rows // PANEL, -(-columns // CHUNK // 2), SCALES + 2 * (512 if kind == "int8" else 256))


def repack(kind: str, codes: Tensor, scale: Tensor, out_PBX: Tensor) -> None:
    """Codes (N, bytes of a row) and fp16 scales (N, C), N a multiple of 16 -> `out_PBX`, which may skip panels."""
    chunks = scale.shape[1]
    if kind == "int8":
        words_PRCV = (codes.view(torch.uint8) ^ 0x80).view(torch.int32).view(-1, PANEL, chunks, 8)
    else:
        nibbles = torch.stack((codes & 15, codes >> 4), -1).flatten(1).view(torch.int32)  # in the order of the columns
        low, high = nibbles.view(-1, PANEL, chunks, 2, 4).unbind(3)
        words_PRCV = low | (high << 4)
    words_PCX = words_PRCV.permute(0, 2, 3, 1).flatten(2)
    scale_PCR = scale.view(torch.int16).view(-1, PANEL, chunks).permute(0, 2, 1)
    if chunks % 2:
        out_PBX[:, -1] = 0
    for odd in (0, 1):
        some, size = slice(odd, chunks, 2), words_PCX.shape[2]
        count = len(range(chunks)[some])
        out_PBX.view(torch.int16)[:, :count, odd * PANEL : (odd + 1) * PANEL] = scale_PCR[:, some]
        begin = SCALES // 4 + odd * size
        out_PBX.view(torch.int32)[:, :count, begin : begin + size] = words_PCX[:, some]
