"""What a model costs, counted from its config: parameters, floating-point work, cache bytes. Measures nothing.

The main model is counted without its MTP modules, as DeepSeek does (671,026,419,200 for V3); they have their own
number. Router biases count as parameters, because checkpoints hold them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from doran.arch.config import ModelConfig
from doran.arch.tensors import mtp_layer, tensors


@dataclass(frozen=True)
class Counts:
    """`by_part` (embedding, head, attention, mlp, experts, shared_experts, router, norms) adds up to `total`."""

    total: int
    active: int  # what one token passes through, embedding and head included
    by_part: dict[str, int]
    mtp: int  # tensors only the MTP modules have


def parameters(config: ModelConfig) -> Counts:
    """Count every tensor of the checkpoint once; a tied head counts in the embedding."""
    by_part: dict[str, int] = {}
    mtp = 0
    for name, shape in tensors(config):
        if mtp_layer(name, config) is not None:
            mtp += math.prod(shape)
        else:
            part = _part(name)
            by_part[part] = by_part.get(part, 0) + math.prod(shape)
    total = sum(by_part.values())
    return Counts(total=total, active=total - _idle_experts(config), by_part=by_part, mtp=mtp)


def _part(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "embedding"
    if name == "lm_head.weight":
        return "head"
    if "norm" in name.split(".")[-2]:
        return "norms"
    if ".self_attn." in name:
        return "attention"
    for marker, part in ((".mlp.gate.", "router"), (".experts.", "experts"), (".shared_experts.", "shared_experts")):
        if marker in name:
            return part
    return "mlp"


def _idle_experts(config: ModelConfig) -> int:
    """Parameters of the routed experts that a token does not visit."""
    layers = sum(config.is_moe(layer) for layer in range(config.num_hidden_layers))
    idle = config.n_routed_experts - config.num_experts_per_tok
    return layers * idle * 3 * config.hidden_size * config.moe_intermediate_size


def logit_rows(vocab_size: int, most: int = 2048, values: int = 1 << 26) -> int:
    """Rows of logits that training holds at a time: `most`, fewer where a row is long (`values` numbers in all)."""
    return max(1, min(most, values // vocab_size))


def flops_per_token(config: ModelConfig, context: int) -> int:
    """Floating-point operations of ONE token's FORWARD pass when it sees `context` keys (itself included), head
    included, MTP not. Training costs three times as much; the mean context of a causal sequence of L tokens is
    (L + 1) / 2.

    Two operations for each weight of a matrix the token meets, and for each score and value read. MLA counts in
    expanded form, as it is trained.
    """
    counts = parameters(config)
    weights = counts.active - counts.by_part["norms"]
    if not config.tie_word_embeddings:
        weights -= counts.by_part["embedding"]  # looked up, not multiplied; a tied one is multiplied as the head
    value_width = config.v_head_dim if config.is_mla else config.head_dim
    attention = config.num_attention_heads * (config.qk_head_dim + value_width) * context
    return 2 * (weights + config.num_hidden_layers * attention)


def cache_bytes_per_token(config: ModelConfig, dtype_bytes: int = 2) -> int:
    """Bytes one token of one sequence keeps while decoding, all layers: 70,272 for DeepSeek-V3 in bf16."""
    if config.is_mla:
        width = config.kv_lora_rank + config.qk_rope_head_dim
    else:
        width = 2 * config.num_key_value_heads * config.head_dim
    return config.num_hidden_layers * width * dtype_bytes


def quantized(config: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    """The matrices that DeepSeek stores in FP8: all but embeddings, heads, norms, router and eh_proj (r1 s3.3)."""
    kept = ("embed_tokens", "lm_head", ".mlp.gate.", ".eh_proj.", "shared_head")
    return [(name, s) for name, s in tensors(config) if len(s) == 2 and not any(word in name for word in kept)]
