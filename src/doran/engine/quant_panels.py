"""A quantised model's weights for the native decoder: its packed matrices, fused where a step wants them fused.

Matrices are shared with the model, whose own are from then on views of a block a layer (settle.py). MLA's queries and
latents alone are packed again, in the order of their rotated rows. The plain form is panels.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from doran.engine.panels import POINTERS, Packed, padded, panels, rotary_orders, vector
from doran.engine.settle import settle
from doran.formats.quant import Stored, concatenate
from doran.layers.gqa import GroupedAttention
from doran.layers.linear import QuantEmbedding, QuantExperts, QuantLinear, QuantSwiGLU, pack
from doran.layers.mla import LatentAttention
from doran.layers.moe import MoE
from doran.models.block import DecoderLayer
from doran.models.decoder import Decoder
from doran.native import quant

_MATRICES = POINTERS[9:19]


def covers_packed(model: Decoder, mtp: bool = False) -> bool:
    """Can the native decoder run this quantised model, its MTP module too where that is asked for? Every matrix it
    multiplies must be packed, fused ones alike."""
    head = model.lm_head if model.lm_head is not None else model.tied_head
    layers = list(model.model.layers[: model.config.num_hidden_layers + mtp])
    return (
        isinstance(head, QuantLinear)
        and isinstance(model.model.embed_tokens, QuantEmbedding)
        and all(map(_fits, layers))
    )


def held_panels(model: Decoder) -> QuantPanels:
    """The model's panels, made once: quantised weights never change."""
    if not isinstance(model.step_form, QuantPanels):
        model.step_form = QuantPanels(model)
    return model.step_form


def _fits(layer: nn.Module) -> bool:
    assert isinstance(layer, DecoderLayer)
    return _attention_fits(layer.self_attn) and (
        isinstance(layer.mlp, QuantSwiGLU)
        or isinstance(layer.mlp, MoE)
        and isinstance(layer.mlp.experts, QuantExperts)
        and isinstance(layer.mlp.shared_experts, QuantSwiGLU | None)
    )


def _attention_fits(a: Any) -> bool:
    """Are its projections packed, and can the first ones be one matrix?"""
    if isinstance(a, LatentAttention):
        first: list[Any] = [a.q_proj if a.config.q_lora_rank is None else a.q_a_proj, a.kv_a_proj_with_mqa]
        rest = [] if a.config.q_lora_rank is None else [a.q_b_proj]
    else:
        assert isinstance(a, GroupedAttention)
        first, rest = [a.q_proj, a.k_proj, a.v_proj], []
    if not all(isinstance(p, QuantLinear) for p in [*first, *rest, a.o_proj]):
        return False
    alike = len({p.packed.layout for p in first}) == 1 and len({p.stored.kind if p.stored else "" for p in first}) == 1
    return alike and all(p.out_features % quant.PANEL == 0 for p in first[:-1])


class QuantPanels(Packed):
    """Like panels.Packed, for a quantised model; activations and the residual stream are fp32."""

    def __init__(self, model: Decoder) -> None:
        self.dtype = torch.float32
        head = model.lm_head if model.lm_head is not None else model.tied_head
        embed = model.model.embed_tokens
        assert isinstance(head, QuantLinear) and isinstance(embed, QuantEmbedding)
        settle([head.packed.data], model)
        table = head.packed if head is model.tied_head else pack(embed.table)
        self.embed_kind, self.head_kind = 1 + table.layout, 1 + head.packed.layout
        self.globals = [table.data, vector(model.model.norm.weight), head.packed.data]
        self._kinds: dict[str, int] = {}
        layers = model.model.layers[: model.config.num_hidden_layers]
        self.layers = [self._layer(model.config, layer) for layer in layers]  # type: ignore[arg-type]

    def _joining(self, eh_proj: nn.Module) -> Tensor:
        if not isinstance(eh_proj, QuantLinear):
            return super()._joining(eh_proj)
        self.eh_kind = 1 + eh_proj.packed.layout
        return eh_proj.packed.data

    def _layer(self, config: object, layer: DecoderLayer) -> list[Tensor | None]:
        self._kinds = {}
        a: Any = layer.self_attn
        parts: dict[str, Tensor | None] = {
            "norm_in": vector(layer.input_layernorm.weight),
            "norm_post": vector(layer.post_attention_layernorm.weight),
            "o": self._take("o", a.o_proj.packed), "o_bias": padded(a.o_proj.bias),
        }  # fmt: skip
        parts |= self._mla(a) if isinstance(a, LatentAttention) else self._gqa(a)
        mlp: Any = layer.mlp
        if isinstance(mlp, MoE):
            experts: Any = mlp.experts
            parts |= {
                "route": panels(mlp.gate.weight, torch.float32),
                "route_bias": mlp.gate.e_score_correction_bias.float().contiguous(),
                "expert_gate_up": self._take("expert_gate_up", experts.gate_up),
                "expert_down": self._take("expert_down", experts.down),
            }
            mlp = mlp.shared_experts
        if mlp is not None:
            parts |= {"gate_up": self._take("gate_up", mlp.gate_up), "down": self._take("down", mlp.down)}
        parts["kinds"] = torch.tensor([self._kinds.get(name, 0) for name in _MATRICES])
        return settle((parts.get(name) for name in POINTERS), layer)

    def _take(self, name: str, matrix: quant.Packed) -> Tensor:
        self._kinds[name] = 1 + matrix.layout
        return matrix.data

    def _gqa(self, a: GroupedAttention) -> dict[str, Tensor | None]:
        projections: list[QuantLinear] = [a.q_proj, a.k_proj, a.v_proj]  # type: ignore[list-item]
        fused = torch.cat([p.packed.data for p in projections], 1)
        at = 0
        for p in projections:  # from now on views: the weights are held once
            size = p.packed.num_bytes
            p.packed = replace(p.packed, data=fused[:, at : at + size])
            at += size
        self._kinds["qkv"] = 1 + projections[0].packed.layout
        biases = [p.bias for p in projections]
        return {
            "qkv": fused,
            "qkv_bias": None if biases[0] is None else padded(torch.cat(biases)),  # type: ignore[arg-type]
            "q_norm": vector(a.q_norm.weight) if a.qk_norm else None,
            "k_norm": vector(a.k_norm.weight) if a.qk_norm else None,
        }

    def _mla(self, a: LatentAttention) -> dict[str, Tensor | None]:
        c = a.config
        order_Q, order_C = rotary_orders(c)
        first = _stored(a.q_proj).rows(order_Q) if c.q_lora_rank is None else _stored(a.q_a_proj)
        down = a.kv_a_proj_with_mqa
        bias = None
        if down.bias is not None:
            lead = torch.zeros(len(first.codes)) if c.q_lora_rank is None else a.q_a_proj.bias
            bias = torch.cat((lead, down.bias[order_C]))
        w_HXC = a.kv_b_proj.weight.unflatten(0, (c.num_attention_heads, -1))
        parts: dict[str, Tensor | None] = {
            "qkv": self._take("qkv", pack(concatenate([first, _stored(down).rows(order_C)]))),
            "qkv_bias": padded(bias),
            "k_norm": vector(a.kv_a_layernorm.weight),
            "absorb": panels(w_HXC[:, : c.qk_nope_head_dim].transpose(1, 2), torch.float32),
            "value_up": panels(w_HXC[:, c.qk_nope_head_dim :], torch.float32),
        }
        if c.q_lora_rank is not None:
            parts["q_norm"] = vector(a.q_a_layernorm.weight)
            parts["q_b"] = self._take("q_b", pack(_stored(a.q_b_proj).rows(order_Q)))
        return parts


def _stored(p: nn.Module) -> Stored:
    assert isinstance(p, QuantLinear) and p.stored is not None
    return p.stored
