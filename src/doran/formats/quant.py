"""Quantised matrices as stored: codes in rows, a scale for each group of columns. The products with them are native/.

A `Stored` is one matrix (N rows, K columns) of one kind:

* `int8`: codes int8 (N, K), scales fp16 (N, K / 32); value = scale * code, code in -127..127. 8.5 bits a weight.
* `int4`: codes uint8 (N, K / 2), scales fp16 (N, K / 32); column 2j is the low nibble of byte j, 2j + 1 the high
  one; value = scale * (nibble - 8). 4.5 bits a weight.
* `q8_0`, `q4_0`, `q4_k`, `q6_k`: GGUF's blocks, scales among the codes (gguf_blocks.py).

On disk (safetensors) our two kinds are the tensors `X.weight` (I8 or U8) and `X.weight_scale` (F16), and config.json
has
`"quantization_config": {"quant_method": "doran", "format": "int4", "head_format": "int8", "group_size": 32}`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from doran.base.errors import NumericsError
from doran.formats import gguf_blocks

GROUP = 32
METHOD = "doran"
SCALE_SUFFIX = "_scale"
FORMATS = ("int8", "int4")
_AT_ONCE = 1 << 22  # numbers quantised together: bounds the memory of the search for scales


@dataclass(frozen=True)
class Stored:
    """One quantised matrix, as its file holds it: `codes` (N, bytes of a row), `scale` only for our own kinds."""

    kind: str
    codes: Tensor
    columns: int
    scale: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return len(self.codes), self.columns

    def dequantize(self) -> Tensor:
        """The matrix in fp32, (N, K)."""
        if self.kind in gguf_blocks.KINDS:
            return gguf_blocks.dequantize(self.kind, self.codes)
        values = self.codes if self.kind == "int8" else unpack_nibbles(self.codes) - 8
        assert self.scale is not None
        return (values.float().unflatten(1, (-1, GROUP)) * self.scale.float()[:, :, None]).flatten(1)

    def rows(self, index: Tensor | slice) -> Stored:
        """Some of the rows, or all in another order."""
        return replace(self, codes=self.codes[index], scale=None if self.scale is None else self.scale[index])

    @property
    def num_bytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.numel() + (0 if self.scale is None else 2 * self.scale.numel())


def concatenate(parts: list[Stored]) -> Stored:
    """Matrices of one kind and width, one above the other."""
    first = parts[0]
    assert all((p.kind, p.columns) == (first.kind, first.columns) for p in parts)
    scales = [p.scale for p in parts if p.scale is not None]
    return replace(first, codes=torch.cat([p.codes for p in parts]), scale=torch.cat(scales) if scales else None)


def fits(shape: tuple[int, ...]) -> bool:
    """Can a tensor of this shape be quantised: a matrix whose rows are whole groups."""
    return len(shape) == 2 and shape[1] % GROUP == 0


def quantize(weight: Tensor, kind: str) -> Stored:
    """(N, K) in floating point -> `int8` or `int4`. NumericsError: NaN, infinity, or a scale beyond fp16."""
    assert fits(tuple(weight.shape)), weight.shape
    round_groups: Callable[[Tensor], tuple[Tensor, Tensor]] = {"int8": _int8, "int4": _int4}[kind]
    step = max(1, _AT_ONCE // weight.shape[1])
    parts = [round_groups(part.float().unflatten(1, (-1, GROUP))) for part in weight.split(step)]
    codes = torch.cat([p[0] for p in parts]).flatten(1)
    return Stored(
        kind, codes if kind == "int8" else pack_nibbles(codes), weight.shape[1], torch.cat([p[1] for p in parts])
    )


def _half(scale: Tensor) -> Tensor:
    half = scale.to(torch.float16)
    if not bool(half.isfinite().all()):
        raise NumericsError("the weights hold NaN, infinity or numbers too large for fp16 scales",
                            hint="quantise a model that trained to the end")  # fmt: skip
    return half


def _int8(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of a group becomes 127; codes are rounded with the scale as it is stored."""
    half = _half(groups.abs().amax(-1) / 127)
    scale = half.float()[..., None]
    codes = torch.where(scale > 0, groups / scale, 0.0).round().clamp(-127, 127)
    return codes.to(torch.int8), half


def _int4(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The scale, of several near (largest / -8), with which the rounded group lies closest to the real one.

    For given codes q the best scale is <x, q> / <q, q>, which leaves |x|^2 - <x, q>^2 / <q, q>: that is compared.
    """
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    _half(largest)
    best = torch.full(groups.shape[:-1], -1.0)
    scale = torch.zeros(groups.shape[:-1])
    for levels in (8.0, 7.0, 7.3, 7.6, 8.4, 8.8, 9.3):
        codes = torch.where(largest != 0, groups * (-levels / largest), 0.0).round().clamp(-8, 7)
        xq, qq = (groups * codes).sum(-1), codes.square().sum(-1)
        gain = torch.where(qq > 0, xq * xq / qq, 0.0)
        better = gain > best
        best = torch.where(better, gain, best)
        scale = torch.where(better & (qq > 0), xq / qq, scale)
    half = _half(scale)
    stored = half.float()[..., None]
    codes = torch.where(stored != 0, groups / stored, 0.0).round().clamp(-8, 7) + 8
    return codes.to(torch.uint8), half


def pack_nibbles(codes: Tensor) -> Tensor:
    """(N, K) of 0..15 -> (N, K / 2): even columns low, odd columns high."""
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """(N, K / 2) -> (N, K), int8."""
    return torch.stack((packed & 15, packed >> 4), -1).flatten(1).to(torch.int8)


def round_activations(x: Tensor) -> Tensor:
    """What the products see of their input (..., K): int8, one fp32 scale for 32 columns, back in fp32."""
    groups = x.float().unflatten(-1, (-1, GROUP))
    largest = groups.abs().amax(-1, keepdim=True)
    codes = torch.where(largest > 0, groups * (127.0 / largest), 0.0).round()
    return (codes * (largest / 127.0)).flatten(-2)


def as_blocks(matrix: Stored) -> Stored:
    """`int8` as GGUF's q8_0, `int4` as q4_0: the same numbers, moved. Other kinds are blocks already."""
    if matrix.scale is None:
        return matrix
    scale = matrix.scale.contiguous().view(torch.uint8).unflatten(1, (-1, 2))
    if matrix.kind == "int8":
        codes = matrix.codes.view(torch.uint8).unflatten(1, (-1, GROUP))
    else:
        nibbles = unpack_nibbles(matrix.codes).view(torch.uint8).unflatten(1, (-1, GROUP))
        codes = nibbles[..., : GROUP // 2] | (nibbles[..., GROUP // 2 :] << 4)
    return Stored(
        {"int8": "q8_0", "int4": "q4_0"}[matrix.kind], torch.cat((scale, codes), -1).flatten(1), matrix.columns
    )
