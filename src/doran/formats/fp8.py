"""FP8 (E4M3) with one fp32 scale a block, as DeepSeek-V3 stores it (report s3.3). Storage only: no FP8 maths.

Weights have 128x128 blocks and a tensor `X.weight_scale_inv` (ceil(rows/128), ceil(columns/128)) beside `X.weight`;
value = fp8 * scale. Activations have tiles of 1x128. A block's scale is its largest magnitude / 448, E4M3's largest
number.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128
LARGEST = 448.0
SCALE_SUFFIX = "_scale_inv"


def scale_shape(shape: tuple[int, ...], block: tuple[int, int] = (BLOCK, BLOCK)) -> tuple[int, int]:
    """Blocks along each axis; the last one may be cut: (576, 7168) -> (5, 56)."""
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def quantize(weight: Tensor, block: tuple[int, int] = (BLOCK, BLOCK)) -> tuple[Tensor, Tensor]:
    """(rows, columns) -> float8_e4m3fn of the same shape and its fp32 scales. Each block's largest value is exact."""
    rows, columns = weight.shape
    tall, wide = scale_shape((rows, columns), block)
    padded = F.pad(weight.float(), (0, wide * block[1] - columns, 0, tall * block[0] - rows))
    blocks = padded.view(tall, block[0], wide, block[1])
    largest = blocks.abs().amax(dim=(1, 3))
    scale = torch.where(largest > 0, largest / LARGEST, 1.0)
    scaled = (blocks / scale[:, None, :, None]).clamp(-LARGEST, LARGEST)
    return scaled.reshape(padded.shape)[:rows, :columns].to(torch.float8_e4m3fn), scale


def dequantize(weight: Tensor, scale: Tensor, block: tuple[int, int] = (BLOCK, BLOCK)) -> Tensor:
    """fp8 (rows, columns) and scales -> fp32 (rows, columns)."""
    rows, columns = weight.shape
    stretched = scale.float().repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
    return weight.float() * stretched


def expand(weight: Tensor, scale: Tensor, dtype: torch.dtype, block: tuple[int, int] = (BLOCK, BLOCK)) -> Tensor:
    """`dequantize(...).to(dtype)`, the same bits, many times faster: torch converts E4M3 one number at a time.

    E4M3's exponent and mantissa, moved behind bfloat16's sign, are the number times 2^-120, subnormals included. A NaN
    reads as 480: no checkpoint holds one. Blocks of rows stay in the processor's cache between the steps.
    """
    if not bool((scale < 128).all()):  # scale * 2^120 must be finite
        return dequantize(weight, scale, block).to(dtype)
    out = torch.empty(weight.shape, dtype=dtype)
    lifted = (scale.float() * 2.0**120).repeat_interleave(block[1], 1)[:, : weight.shape[1]]
    for row, codes in enumerate(weight.view(torch.int8).split(block[0])):
        bits = codes.to(torch.int16).mul_(16).bitwise_and_(0x87F0 - 0x10000)
        out[row * block[0] :][: len(codes)] = bits.view(torch.bfloat16).float().mul_(lifted[row])
    return out
