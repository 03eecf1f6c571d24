"""A model's weights in the layout of the native decoder (native/decoder.cpp): panels of 16 output columns.

Only rearranges; nothing is trained or run here. `covers` says which models have such a form. Legend: N rows (outputs)
and K columns (inputs) of a matrix, E experts, I inner width, H heads, C latent rank, R rotated width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doran.arch.config import ModelConfig
from doran.layers.gqa import GroupedAttention
from doran.layers.mla import LatentAttention
from doran.layers.moe import MoE, SwiGLU
from doran.layers.norm import RMSNorm
from doran.models.block import DecoderLayer
from doran.models.decoder import Decoder
from doran.models.mtp import MTPBlock

PANEL = 16
POINTERS = (
    "norm_in", "norm_post", "q_norm", "k_norm", "qkv_bias", "o_bias", "gate_up_bias", "down_bias", "route_bias",
    "qkv", "q_b", "absorb", "value_up", "o", "gate_up", "down", "route", "expert_gate_up", "expert_down", "kinds",
)  # fmt: skip
"""What struct Layer in native/decoder.h holds, in its order."""
SIZES = (
    "bf16_weights", "bf16_cache", "hidden", "vocab", "layers", "heads", "groups", "mla", "nope", "rope", "value",
    "rank", "q_rank", "dense", "expert", "experts", "top_k", "n_group", "topk_group", "norm_topk", "mask_zero",
    "shared", "embed_kind", "head_kind", "drafts", "eh_kind",
)  # fmt: skip
"""struct Sizes, in its order."""
COLUMNS = (
    "tokens", "lengths", "steps", "budget", "stops", "uniforms", "new_tokens", "new_logprobs", "temperature", "top_k",
    "top_p", "min_p", "ended", "num_stops", "width",
)  # fmt: skip
"""struct Columns, in its order."""
_PARTS = (nn.Linear, nn.Embedding, RMSNorm)


def names() -> str:
    """What the native decoder must answer to decoder_names: that it was built for these very structs."""
    groups = [[f"*{x}" for x in POINTERS[:9]], [f"*{x}" for x in POINTERS[9:19]], SIZES, COLUMNS]
    return "; ".join(", ".join(group) for group in groups)


def covers(model: Decoder, *dtypes: torch.dtype) -> bool:
    """Can the native decoder run this model? Its layers must be the plain ones, on the CPU, in fp32 or bf16."""
    here = all(p.device.type == "cpu" for p in model.parameters())
    return here and {*dtypes} <= {torch.float32, torch.bfloat16} and _plain(model)


def _plain(model: Decoder) -> bool:
    """No module in a place where the layers expect a matrix, an embedding or a norm is anything else."""
    names = ("_proj", "embed_tokens", "norm", "lm_head", "kv_a_proj_with_mqa")
    return all(type(m) in _PARTS for name, m in model.named_modules() if name.endswith(names))


def _layers(model: Decoder) -> list[DecoderLayer]:
    return list(model.model.layers[: model.config.num_hidden_layers])  # type: ignore[arg-type]


def sizes(
    config: ModelConfig,
    weights: torch.dtype,
    cache: torch.dtype,
    embed_kind: int = 0,
    head_kind: int = 0,
    drafts: int = 0,
    eh_kind: int = 0,
) -> list[int]:
    """struct Sizes in native/decoder.h; kinds are 0 for plain weights, else as quant_panels.py has them."""
    c, experts = config, max(config.n_routed_experts, 0)
    return [
        weights == torch.bfloat16, cache == torch.bfloat16, c.hidden_size, c.vocab_size, c.num_hidden_layers,
        c.num_attention_heads, 1 if c.is_mla else c.num_key_value_heads, c.is_mla, c.qk_nope_head_dim, c.rope_dim,
        c.v_head_dim if c.is_mla else c.head_dim, c.kv_lora_rank, c.q_lora_rank or 0, c.intermediate_size,
        c.moe_intermediate_size, experts, c.num_experts_per_tok, c.n_group, c.topk_group, c.norm_topk_prob,
        c.masked_group_score == "zero", c.moe_intermediate_size * c.n_shared_experts,
        embed_kind, head_kind, drafts, eh_kind,
    ]  # fmt: skip


def reals(config: ModelConfig) -> list[float]:
    """struct Reals; DeepSeek's inner norms have an epsilon of their own (layers/mla.py)."""
    return [config.rms_norm_eps, 1e-6, config.softmax_scale, config.routed_scaling_factor]


def panels(weight: Tensor, dtype: torch.dtype, multiple: int = 1) -> Tensor:
    """(..., N, K) -> (..., N/16, K/w, 16, w) with w = 2 for bf16, else 1; zeros fill N to 16 and K to `multiple`."""
    width = 2 if dtype == torch.bfloat16 else 1
    (n, k), step = weight.shape[-2:], max(width, multiple)
    padded = F.pad(weight.detach().to(dtype), (0, -k % step, 0, -n % PANEL))
    return padded.unflatten(-1, (-1, width)).unflatten(-3, (-1, PANEL)).transpose(-3, -2).contiguous()


def interleaved(gate: Tensor, up: Tensor) -> Tensor:
    """Panels of gate and up in turns, (..., N, K) each, so that one tile holds both for 16 columns."""
    pair = [F.pad(x, (0, 0, 0, -x.shape[-2] % PANEL)).unflatten(-2, (-1, PANEL)) for x in (gate, up)]
    return torch.stack(pair, -3).flatten(-4, -2)


def rotary_orders(c: ModelConfig) -> tuple[Tensor, Tensor]:
    """Orders of the rows of MLA's query and latent projections in which the rotation pairs halves.

    Rearranging interleaved weights does once for all what the rotation would do at every step.
    """
    order_R = torch.arange(c.qk_rope_head_dim)
    if c.rope_interleave:
        order_R = torch.cat((order_R[::2], order_R[1::2]))
    order_X = torch.cat((torch.arange(c.qk_nope_head_dim), c.qk_nope_head_dim + order_R))
    order_Q = (torch.arange(c.num_attention_heads)[:, None] * c.qk_head_dim + order_X).flatten()
    return order_Q, torch.cat((torch.arange(c.kv_lora_rank), c.kv_lora_rank + order_R))


class Packed:
    """The packed weights of a model: `globals` and one list of tensors a layer, in the decoder's order. Those of the
    MTP module are added when `with_mtp` asks for them: `mtp` is struct Mtp, `mtp_layer` its layer."""

    embed_kind = head_kind = eh_kind = 0
    mtp: Sequence[Tensor | None] = (None,) * 4
    mtp_layer: list[Tensor | None] | None = None

    def __init__(self, model: Decoder, dtype: torch.dtype) -> None:
        self.dtype = dtype
        head = model.model.embed_tokens if model.lm_head is None else model.lm_head
        embed = model.model.embed_tokens.weight.detach().to(dtype).contiguous()
        self.globals = [embed, vector(model.model.norm.weight), panels(head.weight, dtype)]
        self.layers = [self._layer(model.config, layer) for layer in _layers(model)]

    def with_mtp(self, model: Decoder) -> Packed:
        """Itself, MTP module 0 of the same model included."""
        if self.mtp_layer is None:
            block = model.model.layers[model.config.num_hidden_layers]
            assert isinstance(block, MTPBlock)
            norms = [vector(x.weight) for x in (block.enorm, block.hnorm, block.shared_head.norm)]
            self.mtp = [*norms, self._joining(block.eh_proj)]
            self.mtp_layer = self._layer(model.config, block)
        return self

    def _joining(self, eh_proj: nn.Module) -> Tensor:
        assert isinstance(eh_proj, nn.Linear)
        return panels(eh_proj.weight, self.dtype)

    def _layer(self, config: ModelConfig, layer: DecoderLayer) -> list[Tensor | None]:
        parts: dict[str, Tensor | None] = {
            "norm_in": vector(layer.input_layernorm.weight),
            "norm_post": vector(layer.post_attention_layernorm.weight),
        }
        attention, mlp = layer.self_attn, layer.mlp
        if isinstance(attention, LatentAttention):
            parts |= self._latent(config, attention)
        else:
            assert isinstance(attention, GroupedAttention)
            parts |= self._grouped(attention)
        parts |= {"o": panels(attention.o_proj.weight, self.dtype), "o_bias": padded(attention.o_proj.bias)}
        if isinstance(mlp, MoE):
            parts |= self._experts(mlp)
        else:
            assert isinstance(mlp, SwiGLU)
            parts |= self._dense(mlp)
        return [parts.get(name) for name in POINTERS]

    def _grouped(self, a: GroupedAttention) -> dict[str, Tensor | None]:
        projections = (a.q_proj, a.k_proj, a.v_proj)
        return {
            "qkv": panels(torch.cat([p.weight for p in projections]), self.dtype),
            "qkv_bias": padded(_joined_bias(projections)),
            "q_norm": vector(a.q_norm.weight) if a.qk_norm else None,
            "k_norm": vector(a.k_norm.weight) if a.qk_norm else None,
        }

    def _latent(self, c: ModelConfig, a: LatentAttention) -> dict[str, Tensor | None]:
        order_Q, order_C = rotary_orders(c)
        w_HXC = a.kv_b_proj.weight.unflatten(0, (c.num_attention_heads, -1))
        down = a.kv_a_proj_with_mqa
        first = a.q_proj.weight[order_Q] if c.q_lora_rank is None else a.q_a_proj.weight
        bias = None
        if down.bias is not None:
            lead = first.new_zeros(len(first)) if c.q_lora_rank is None else a.q_a_proj.bias
            bias = torch.cat((lead, down.bias[order_C]))
        parts: dict[str, Tensor | None] = {
            "qkv": panels(torch.cat((first, down.weight[order_C])), self.dtype),
            "qkv_bias": padded(bias),
            "k_norm": vector(a.kv_a_layernorm.weight),
            "absorb": panels(w_HXC[:, : c.qk_nope_head_dim].transpose(1, 2), self.dtype),
            "value_up": panels(w_HXC[:, c.qk_nope_head_dim :], self.dtype),
        }
        if c.q_lora_rank is not None:
            parts |= {"q_norm": vector(a.q_a_layernorm.weight), "q_b": panels(a.q_b_proj.weight[order_Q], self.dtype)}
        return parts

    def _dense(self, mlp: SwiGLU) -> dict[str, Tensor | None]:
        gate, up, down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        bias = None if gate.bias is None else interleaved(gate.bias[:, None], up.bias[:, None])[:, 0]
        return {
            "gate_up": panels(interleaved(gate.weight, up.weight), self.dtype),
            "gate_up_bias": padded(bias),
            "down": panels(down.weight, self.dtype, PANEL),
            "down_bias": padded(down.bias),
        }

    def _experts(self, mlp: MoE) -> dict[str, Tensor | None]:
        gate_E, up_E = mlp.experts.gate_up_proj.chunk(2, dim=1)
        return {
            "route": panels(mlp.gate.weight, torch.float32),
            "route_bias": vector(mlp.gate.e_score_correction_bias),
            "expert_gate_up": panels(interleaved(gate_E, up_E), self.dtype),
            "expert_down": panels(mlp.experts.down_proj, self.dtype, PANEL),
        } | (self._dense(mlp.shared_experts) if mlp.shared_experts is not None else {})


def vector(x: Tensor) -> Tensor:
    """In float32, row after row."""
    return x.detach().float().contiguous()


def padded(x: Tensor | None) -> Tensor | None:
    """A vector in float32, filled up with zeros to whole panels."""
    return None if x is None else F.pad(x.detach().float(), (0, -len(x) % PANEL)).contiguous()


def _joined_bias(parts: Sequence[nn.Linear]) -> Tensor | None:
    return None if parts[0].bias is None else torch.cat([p.bias for p in parts])
