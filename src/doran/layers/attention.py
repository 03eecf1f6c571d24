"""The attention contexts: who may look at whom, and where the past lives. No weights, no projections.

A layer computes q, k and v; the context passed to it does the rest, so one model definition serves training
(PackedAttend), prefill and decoding (CacheAttend). T tokens of all sequences in a row, H query heads, K kv heads, N
head width, R rotated width, C latent width, V value width; n sequences of padded length L.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from doran.layers.cache import KVCache, LatentCache
from doran.native import ops

# Longer sequences go to torch's flash attention: the native kernel holds a head's L x L scores.
_LONGEST_NATIVE = 1024


class Attend(Protocol):
    """What an attention layer asks of its context. `layer` counts from 0."""

    def gqa(self, layer: int, q_THN: Tensor, k_TKN: Tensor, v_TKN: Tensor, scale: float) -> Tensor:
        """Grouped-query attention -> (T, H, N)."""

    def mla(
        self,
        layer: int,
        q_nope_THN: Tensor,
        q_pe_THR: Tensor,
        c_kv_TC: Tensor,
        k_pe_TR: Tensor,
        kv_b_weight: Tensor,
        scale: float,
    ) -> Tensor:
        """Latent attention -> (T, H, V). c_kv comes after its norm, q_pe and k_pe after RoPE."""


class PackedAttend:
    """Causal inside each sequence, nothing across: sequence s is tokens cu_seqlens[s] to cu_seqlens[s + 1].

    Sequences of similar length are attended together, padded to the longest of their bucket. A pad is a copy of token 0
    at the end: causality hides it from real queries and its own output is dropped, so the result is exact.
    """

    def __init__(self, cu_seqlens: Tensor | Sequence[int]) -> None:
        self.cu_seqlens = torch.as_tensor(cu_seqlens, dtype=torch.int64)
        bounds = self.cu_seqlens.tolist()
        lengths = [b - a for a, b in zip(bounds, bounds[1:], strict=False)]
        if not lengths or min(lengths) <= 0 or bounds[0] != 0:
            raise ValueError(f"cu_seqlens must start at 0 and rise, got {bounds[:4]}...")
        self.longest = max(lengths)
        self.shapes: list[tuple[int, int]] = [(len(lengths), lengths[0])]
        self.pad_P: Tensor | None = None
        if len(set(lengths)) > 1:
            self._plan(bounds, lengths)

    def _plan(self, bounds: list[int], lengths: list[int]) -> None:
        """Choose buckets; note for each padded row its token and for each token its padded row."""
        buckets: dict[int, list[int]] = {}
        for index, length in enumerate(lengths):
            buckets.setdefault(_bucket(length), []).append(index)
        device = self.cu_seqlens.device
        starts, sizes = self.cu_seqlens[:-1], self.cu_seqlens.diff()
        self.shapes, pads, first_rows, row = [], [], torch.zeros_like(starts), 0
        for members in buckets.values():
            longest = max(lengths[m] for m in members)
            ids, offsets = torch.tensor(members, device=device), torch.arange(longest, device=device)
            rows = starts[ids, None] + offsets
            pads.append(torch.where(offsets < sizes[ids, None], rows, 0).flatten())
            first_rows[ids] = row + torch.arange(len(members), device=device) * longest
            self.shapes.append((len(members), longest))
            row += len(members) * longest
        self.pad_P = torch.cat(pads)
        self.unpad_T = torch.arange(bounds[-1], device=device) + (first_rows - starts).repeat_interleave(sizes)

    def native(self, *tensors: Tensor) -> bool:
        """Do the C++ kernels take these? They do the same without padding (doran/native)."""
        return self.longest <= _LONGEST_NATIVE and ops.usable(*tensors)

    def gqa(self, layer: int, q_THN: Tensor, k_TKN: Tensor, v_TKN: Tensor, scale: float) -> Tensor:
        """Expanded attention over the packed tokens -> (T, H, V). Value width may differ from key width."""
        if self.native(q_THN, k_TKN, v_TKN):
            nothing = q_THN[..., :0]
            return ops.packed_attention(q_THN, nothing, k_TKN, nothing[:, 0], v_TKN, self.cu_seqlens, scale)
        if self.pad_P is None:
            (shape,) = self.shapes
            return _causal(q_THN, k_TKN, v_TKN, shape, scale)
        q, k, v = (x.index_select(0, self.pad_P) for x in (q_THN, k_TKN, v_TKN))
        out, row = [], 0
        for n, longest in self.shapes:
            part = slice(row, row + n * longest)
            out.append(_causal(q[part], k[part], v[part], (n, longest), scale))
            row = part.stop
        return torch.cat(out).index_select(0, self.unpad_T)

    def mla(
        self,
        layer: int,
        q_nope_THN: Tensor,
        q_pe_THR: Tensor,
        c_kv_TC: Tensor,
        k_pe_TR: Tensor,
        kv_b_weight: Tensor,
        scale: float,
    ) -> Tensor:
        """Expanded latent attention: keys and values are made from the latents, then attended as usual."""
        heads, nope = q_nope_THN.shape[1:]
        if self.native(q_nope_THN, q_pe_THR, c_kv_TC, k_pe_TR):
            kv_THX = F.linear(c_kv_TC, kv_b_weight).unflatten(-1, (heads, -1))
            k_nope_THN, v_THV = kv_THX.split((nope, kv_THX.shape[-1] - nope), dim=-1)
            return ops.packed_attention(q_nope_THN, q_pe_THR, k_nope_THN, k_pe_TR, v_THV, self.cu_seqlens, scale)
        q_THN, k_THN, v_THV = expand(q_nope_THN, q_pe_THR, c_kv_TC, k_pe_TR, kv_b_weight)
        return self.gqa(layer, q_THN, k_THN, v_THV, scale)


def _bucket(length: int) -> int:
    """Lengths up to 16, then in steps of an eighth to a quarter: at most a quarter of a bucket is padding."""
    step = max(16, 1 << max(0, length.bit_length() - 3))
    return -(-length // step) * step


def expand(
    q_nope_THN: Tensor, q_pe_THR: Tensor, c_kv_TC: Tensor, k_pe_TR: Tensor, kv_b_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """MLA's inputs as those of plain attention: q, k (T, H, N + R) and v (T, H, V) (DeepSeek-V3 s2.1.1)."""
    heads, nope = q_nope_THN.shape[1:]
    kv_THX = F.linear(c_kv_TC, kv_b_weight).unflatten(-1, (heads, -1))
    k_nope_THN, v_THV = kv_THX.split((nope, kv_THX.shape[-1] - nope), dim=-1)
    k_pe_THR = k_pe_TR[:, None].expand(-1, heads, -1).to(k_nope_THN.dtype)
    return torch.cat((q_nope_THN, q_pe_THR), -1), torch.cat((k_nope_THN, k_pe_THR), -1), v_THV


def _causal(q: Tensor, k: Tensor, v: Tensor, shape: tuple[int, int], scale: float) -> Tensor:
    """Causal attention of n sequences of length L: (n*L, heads, width) -> (n*L, H, V)."""
    q, k, v = (x.unflatten(0, shape).transpose(1, 2) for x in (q, k, v))
    o = sdpa(q, k, v, scale, is_causal=True)
    return o.transpose(1, 2).flatten(0, 1)


def sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, is_causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """torch's attention for (n, heads, L, width), with any value width and any number of query heads a kv head."""
    width = v.shape[-1]
    if width < q.shape[-1]:  # the fused kernel wants one width; zeros change nothing
        v = F.pad(v, (0, q.shape[-1] - width))
    elif width > q.shape[-1]:
        q, k = F.pad(q, (0, width - q.shape[-1])), F.pad(k, (0, width - k.shape[-1]))
    gqa = q.shape[1] != k.shape[1]
    if q.dtype == torch.bfloat16 and q.requires_grad and q.device.type == "cpu":
        # torch's bf16 flash backward is 2.4 times slower than its fp32 one on a CPU without AMX.
        with torch.autocast("cpu", enabled=False):
            return sdpa(q.float(), k.float(), v.float(), scale, is_causal, mask)[..., :width].to(q.dtype)
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=gqa)
    return o[..., :width]


class CacheAttend:
    """Attention of the engine's steps over a cache: make one for each step with `prefill` or `decode`.

    Both write this step's keys (or latents) first, then read. Lengths are the caller's: `past` is how many tokens a
    slot holds before the step.
    """

    def __init__(self, cache: LatentCache | KVCache, slots: Tensor, past: Tensor, cu_seqlens: Tensor | None) -> None:
        self.cache, self.cu_seqlens = cache, cu_seqlens
        self.slots, self.past = slots, past
        self.packed: PackedAttend | None = None
        if cu_seqlens is None:
            self._plan_decode()
        else:
            self._plan_prefill(cu_seqlens)

    @classmethod
    def prefill(
        cls,
        cache: LatentCache | KVCache,
        slots: Sequence[int] | Tensor,
        cu_seqlens: Sequence[int] | Tensor,
        past: Sequence[int] | Tensor | None = None,
    ) -> CacheAttend:
        """Packed sequences, each into its own slot, from position 0 or after the `past` tokens the slot holds."""
        slots_n = torch.as_tensor(slots, dtype=torch.int64)
        past_n = torch.zeros_like(slots_n) if past is None else torch.as_tensor(past, dtype=torch.int64)
        return cls(cache, slots_n, past_n, torch.as_tensor(cu_seqlens, dtype=torch.int64))

    @classmethod
    def decode(
        cls, cache: LatentCache | KVCache, slots: Sequence[int] | Tensor, past: Sequence[int] | Tensor
    ) -> CacheAttend:
        """One token for each slot; token i goes to row past[i] of slots[i]. Fastest when slots are 0..T-1."""
        return cls(cache, torch.as_tensor(slots, dtype=torch.int64), torch.as_tensor(past, dtype=torch.int64), None)

    def _plan_decode(self) -> None:
        self.write_slots_T, self.write_rows_T = self.slots, self.past
        self.length = int(self.past.max()) + 1
        count = len(self.slots)
        self.front = count if torch.equal(self.slots, torch.arange(count)) else 0
        seen = torch.arange(self.length) <= self.past[:, None]
        self.mask_TL = torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))
        self._check(self.length)

    def _plan_prefill(self, cu_seqlens: Tensor) -> None:
        sizes = cu_seqlens.diff()
        self.write_slots_T = self.slots.repeat_interleave(sizes)
        shift = (self.past - cu_seqlens[:-1]).repeat_interleave(sizes)
        self.write_rows_T = torch.arange(int(cu_seqlens[-1])) + shift
        if not self.past.any():
            self.packed = PackedAttend(cu_seqlens)
        self._check(int((self.past + sizes).max()))

    def _check(self, needed: int) -> None:
        if needed > self.cache.capacity:
            raise ValueError(f"a slot holds {self.cache.capacity} tokens, the step needs {needed}")

    def _rows(self, tensor_SX: Tensor) -> Tensor:
        """The cache rows of this step's slots, a view where they are the first ones."""
        return tensor_SX[: self.front] if self.front else tensor_SX.index_select(0, self.slots)

    def gqa(self, layer: int, q_THN: Tensor, k_TKN: Tensor, v_TKN: Tensor, scale: float) -> Tensor:
        """Grouped-query attention over the slots' past and this step -> (T, H, N)."""
        assert isinstance(self.cache, KVCache)
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.write_slots_T, :, self.write_rows_T] = k_TKN.to(keys.dtype)
        values[self.write_slots_T, :, self.write_rows_T] = v_TKN.to(values.dtype)
        if self.packed is not None:
            return self.packed.gqa(layer, q_THN, k_TKN, v_TKN, scale)
        q = q_THN.to(keys.dtype)
        if self.cu_seqlens is not None:
            parts = self._sequences()
            out = [_continue(q[p], keys[s, :, :m], values[s, :, :m], scale) for p, s, m in parts]
            return torch.cat(out).to(q_THN.dtype)
        k_TKLN = self._rows(keys)[:, :, : self.length]
        v_TKLN = self._rows(values)[:, :, : self.length]
        q_TKGN = q.unflatten(1, (keys.shape[1], -1)) * scale
        scores_TKGL = torch.matmul(q_TKGN, k_TKLN.transpose(2, 3)).float() + self.mask_TL[:, None, None]
        o_TKGN = torch.matmul(scores_TKGL.softmax(-1).to(keys.dtype), v_TKLN)
        return o_TKGN.flatten(1, 2).to(q_THN.dtype)

    def mla(
        self,
        layer: int,
        q_nope_THN: Tensor,
        q_pe_THR: Tensor,
        c_kv_TC: Tensor,
        k_pe_TR: Tensor,
        kv_b_weight: Tensor,
        scale: float,
    ) -> Tensor:
        """Latent attention -> (T, H, V): expanded for a prefill, absorbed for a decode step."""
        assert isinstance(self.cache, LatentCache)
        latent = self.cache.latent[layer]
        latent[self.write_slots_T, self.write_rows_T] = torch.cat((c_kv_TC, k_pe_TR), -1).to(latent.dtype)
        if self.packed is not None:
            return self.packed.mla(layer, q_nope_THN, q_pe_THR, c_kv_TC, k_pe_TR, kv_b_weight, scale)
        if self.cu_seqlens is None and ops.usable(latent):
            return self._absorbed_natively(latent, q_nope_THN, q_pe_THR, kv_b_weight, scale)
        if self.cu_seqlens is None:
            rows_TLX = self._rows(latent)[:, : self.length]
            return absorbed(q_nope_THN, q_pe_THR, rows_TLX, kv_b_weight, scale, self.mask_TL)
        out = []
        for part, slot, length in self._sequences():
            c_LC, pe_LR = latent[slot, :length].split((self.cache.rank, k_pe_TR.shape[-1]), -1)
            weight = kv_b_weight.to(c_LC.dtype)
            q, k, v = expand(q_nope_THN[part].to(c_LC.dtype), q_pe_THR[part].to(c_LC.dtype), c_LC, pe_LR, weight)
            out.append(_continue(q, k.transpose(0, 1), v.transpose(0, 1), scale))
        return torch.cat(out).to(q_nope_THN.dtype)

    def _absorbed_natively(
        self, latent_SLX: Tensor, q_nope_THN: Tensor, q_pe_THR: Tensor, kv_b_weight: Tensor, scale: float
    ) -> Tensor:
        """`absorbed` without mask or padding: each slot's own length is read and no more."""
        (heads, nope), dtype = q_nope_THN.shape[1:], latent_SLX.dtype
        w_HXC = kv_b_weight.unflatten(0, (heads, -1)).to(dtype)
        q_HTC = torch.bmm(q_nope_THN.transpose(0, 1).to(dtype), w_HXC[:, :nope])
        q_THX = torch.cat((q_HTC.transpose(0, 1), q_pe_THR.to(dtype)), -1)
        o_THC = ops.mla_decode(q_THX, latent_SLX, self.slots, self.past + 1, w_HXC.shape[-1], scale)
        return torch.bmm(o_THC.transpose(0, 1), w_HXC[:, nope:].transpose(1, 2)).transpose(0, 1).to(q_nope_THN.dtype)

    def _sequences(self) -> list[tuple[slice, int, int]]:
        """(this step's tokens, slot, tokens in the slot after the step) of each sequence."""
        assert self.cu_seqlens is not None
        bounds, slots, past = self.cu_seqlens.tolist(), self.slots.tolist(), self.past.tolist()
        spans = zip(bounds, bounds[1:], slots, past, strict=False)
        return [(slice(a, b), slot, before + b - a) for a, b, slot, before in spans]


def _continue(q_THN: Tensor, k_KLN: Tensor, v_KLN: Tensor, scale: float) -> Tensor:
    """One sequence whose T queries are the last of its L positions -> (T, H, V)."""
    new, length = len(q_THN), k_KLN.shape[1]
    seen_TL = torch.ones(new, length, dtype=torch.bool, device=q_THN.device).tril(length - new)
    o = sdpa(q_THN.transpose(0, 1)[None], k_KLN[None], v_KLN[None], scale, mask=seen_TL)
    return o[0].transpose(0, 1)


def absorbed(
    q_nope_THN: Tensor, q_pe_THR: Tensor, latent_TLX: Tensor, kv_b_weight: Tensor, scale: float, mask_TL: Tensor
) -> Tensor:
    """MLA without making keys or values: kv_b moves into the query and the output (DeepSeek-V3 s2.1.1) -> (T, H, V).

    Each query has its own L latents, X = C + R wide; the H heads share them, which makes it attention with one kv head.
    """
    heads, nope = q_nope_THN.shape[1:]
    rank = latent_TLX.shape[-1] - q_pe_THR.shape[-1]
    dtype = latent_TLX.dtype
    w_HXC = kv_b_weight.unflatten(0, (heads, -1)).to(dtype)
    q_HTC = torch.bmm(q_nope_THN.transpose(0, 1).to(dtype), w_HXC[:, :nope])
    q_THX = torch.cat((q_HTC.transpose(0, 1), q_pe_THR.to(dtype)), -1) * scale
    scores_THL = torch.bmm(q_THX, latent_TLX.transpose(1, 2)).float() + mask_TL[:, None]
    o_THC = torch.bmm(scores_THL.softmax(-1).to(dtype), latent_TLX[..., :rank])
    o_HTV = torch.bmm(o_THC.transpose(0, 1), w_HXC[:, nope:].transpose(1, 2))
    return o_HTV.transpose(0, 1).to(q_nope_THN.dtype)
