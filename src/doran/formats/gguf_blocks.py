"""GGUF's quantised blocks (Q8_0, Q4_0, Q4_K, Q6_K): bytes to numbers and back, in plain torch. No files here.

A row of K columns is K / size blocks in a line. Layouts are ggml's; legend: N rows, B blocks a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Kind(NamedTuple):
    """A block's columns and bytes."""

    size: int
    bytes: int


KINDS = {"q8_0": Kind(32, 34), "q4_0": Kind(32, 18), "q4_k": Kind(256, 144), "q6_k": Kind(256, 210)}


def dequantize(kind: str, rows: Tensor) -> Tensor:
    """uint8 (N, bytes of a row) -> fp32 (N, K)."""
    blocks = rows.contiguous().unflatten(1, (-1, KINDS[kind].bytes))
    decode: Callable[[Tensor], Tensor] = {"q8_0": _q8_0, "q4_0": _q4_0, "q4_k": _q4_k, "q6_k": _q6_k}[kind]
    return decode(blocks).flatten(1)


def _half(pair: Tensor) -> Tensor:
    """Two bytes -> fp32, keeping one axis."""
    return pair.contiguous().view(torch.float16).float()


def _q8_0(b: Tensor) -> Tensor:
    return b[..., 2:].contiguous().view(torch.int8).float() * _half(b[..., :2])


def _q4_0(b: Tensor) -> Tensor:
    """Low nibbles are columns 0..15, high ones 16..31."""
    return (torch.cat((b[..., 2:] & 15, b[..., 2:] >> 4), -1).float() - 8) * _half(b[..., :2])


def _q4_k(b: Tensor) -> Tensor:
    """Eight groups of 32: d * scale * code - dmin * minimum; the two 6-bit numbers of each group are interleaved."""
    scale, minimum = _six_bits(b[..., 4:16])
    codes = b[..., 16:].unflatten(-1, (4, 32))
    q_G = torch.stack((codes & 15, codes >> 4), -2).flatten(-3, -2).float()  # (N, B, 8, 32)
    return (q_G * (_half(b[..., :2]) * scale)[..., None] - (_half(b[..., 2:4]) * minimum)[..., None]).flatten(-2)


def _six_bits(q: Tensor) -> tuple[Tensor, Tensor]:
    """12 bytes -> 8 scales and 8 minima, 0..63 as fp32."""
    a, b, c = q[..., :4], q[..., 4:8], q[..., 8:]
    scale = torch.cat((a & 63, (c & 15) | ((a >> 6) << 4)), -1)
    minimum = torch.cat((b & 63, (c >> 4) | ((b >> 6) << 4)), -1)
    return scale.float(), minimum.float()


def _q6_k(b: Tensor) -> Tensor:
    """Sixteen groups of 16: d * scale * (code - 32); four low bits in one place, two high ones in another."""
    low = b[..., :128].unflatten(-1, (2, 2, 32))  # half, which 32 bytes
    high = b[..., 128:192].unflatten(-1, (2, 1, 32))
    q_low = torch.cat((low & 15, low >> 4), -2)  # (N, B, 2, 4, 32): the four quarters of 128 columns
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None]
    codes = (q_low | (((high >> shifts) & 3) << 4)).flatten(-3).float() - 32
    scale = b[..., 192:208].contiguous().view(torch.int8).float() * _half(b[..., 208:])
    return (codes.unflatten(-1, (16, 16)) * scale[..., None]).flatten(-2)


def quantize(kind: str, weight: Tensor) -> Tensor:
    """fp32 (N, K) -> uint8 (N, bytes of a row). K must be whole blocks."""
    groups = weight.float().unflatten(1, (-1, KINDS[kind].size))
    encode: Callable[[Tensor], Tensor] = {
        "q8_0": _to_q8_0, "q4_0": _to_q4_0, "q4_k": _to_q4_k, "q6_k": _to_q6_k
    }[kind]  # fmt: skip
    return torch.cat([encode(part).flatten(1) for part in groups.split(max(1, (1 << 22) // weight.shape[1]))])


def _bytes(x: Tensor) -> Tensor:
    """fp32 (..., n) as fp16 bytes (..., 2 n)."""
    return x.to(torch.float16).contiguous().view(torch.uint8)


def _over(x: Tensor, scale: Tensor) -> Tensor:
    return torch.where(scale != 0, x / scale, 0.0)


def _to_q8_0(x: Tensor) -> Tensor:
    d = x.abs().amax(-1, keepdim=True) / 127
    return torch.cat((_bytes(d), _over(x, d).round().to(torch.int8).view(torch.uint8)), -1)


def _to_q4_0(x: Tensor) -> Tensor:
    d = x.gather(-1, x.abs().argmax(-1, keepdim=True)) / -8
    codes = (_over(x, d) + 8.5).floor().clamp(0, 15).to(torch.uint8)
    return torch.cat((_bytes(d), codes[..., :16] | (codes[..., 16:] << 4)), -1)


def _to_q4_k(x: Tensor) -> Tensor:
    """Range of each 32, ranges rounded to 6 bits of the block's own scale. No search for better ones."""
    g = x.unflatten(-1, (8, 32))
    low = (-g.amin(-1)).clamp_min(0)
    scale = (g.amax(-1) + low).clamp_min(0) / 15
    d, dmin = (v.amax(-1, keepdim=True).div(63).to(torch.float16).float() for v in (scale, low))
    s6, m6 = (_over(v, unit).round().clamp(0, 63) for v, unit in ((scale, d), (low, dmin)))
    codes = _over(g + (dmin * m6)[..., None], (d * s6)[..., None]).round().clamp(0, 15).to(torch.uint8)
    s, m = s6.to(torch.uint8), m6.to(torch.uint8)
    first, last = slice(0, 4), slice(4, 8)
    packed = torch.cat((
        s[..., first] | ((s[..., last] >> 4) << 6), m[..., first] | ((m[..., last] >> 4) << 6),
        (s[..., last] & 15) | ((m[..., last] & 15) << 4),
    ), -1)  # fmt: skip
    nibbles = (codes[..., 0::2, :] | (codes[..., 1::2, :] << 4)).flatten(-2)
    return torch.cat((_bytes(d), _bytes(dmin), packed, nibbles), -1)


def _to_q6_k(x: Tensor) -> Tensor:
    g = x.unflatten(-1, (16, 16))
    scale = g.gather(-1, g.abs().argmax(-1, keepdim=True))[..., 0] / -32
    top = scale.gather(-1, scale.abs().argmax(-1, keepdim=True))
    d = (top / -128).to(torch.float16).float()
    s8 = _over(scale, d).round().clamp(-128, 127)
    codes = (_over(g, (d * s8)[..., None]).round().clamp(-32, 31) + 32).to(torch.uint8).flatten(-2)
    quarters = codes.unflatten(-1, (2, 4, 32))
    low = (quarters[..., :2, :] & 15) | ((quarters[..., 2:, :] & 15) << 4)
    top_bits = quarters >> 4
    high = top_bits[..., 0, :] | (top_bits[..., 1, :] << 2) | (top_bits[..., 2, :] << 4) | (top_bits[..., 3, :] << 6)
    return torch.cat((low.flatten(-3), high.flatten(-2), s8.to(torch.int8).view(torch.uint8), _bytes(d)), -1)
