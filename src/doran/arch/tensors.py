"""The name and shape of every tensor in a model's checkpoint, from its config alone. No torch, no values.

These are the hub's names: one tensor for each expert and projection, buffers included. The loader checks files against
this list and arch/count.py adds it up.
"""

from __future__ import annotations

from collections.abc import Iterator

from doran.arch.config import ModelConfig

Shape = tuple[int, ...]


def tensors(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """(name, shape) of the main model, then of its MTP modules, in the model's order."""
    d, vocab = config.hidden_size, config.vocab_size
    yield "model.embed_tokens.weight", (vocab, d)
    for layer in range(config.num_hidden_layers):
        yield from _layer(config, layer)
    for layer in range(config.num_hidden_layers, config.num_hidden_layers + config.num_nextn_predict_layers):
        yield from _mtp(config, layer)
    yield "model.norm.weight", (d,)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", (vocab, d)


def mtp_layer(name: str, config: ModelConfig) -> int | None:
    """Which MTP layer a checkpoint tensor belongs to, or None for the main model's."""
    parts = name.split(".")
    if parts[:2] != ["model", "layers"] or not parts[2].isdigit():
        return None
    layer = int(parts[2])
    return layer if layer >= config.num_hidden_layers else None


def is_duplicate(name: str, config: ModelConfig) -> bool:
    """Whether a file may hold this tensor although the model shares it: released MTP layers repeat embedding and head,
    and some writers repeat a tied head."""
    if mtp_layer(name, config) is not None:
        return name.endswith((".embed_tokens.weight", ".shared_head.head.weight"))
    return name == "lm_head.weight" and config.tie_word_embeddings


def _layer(config: ModelConfig, layer: int) -> Iterator[tuple[str, Shape]]:
    prefix, d = f"model.layers.{layer}.", config.hidden_size
    yield prefix + "input_layernorm.weight", (d,)
    yield from _prefixed(prefix + "self_attn.", _mla(config) if config.is_mla else _gqa(config))
    yield prefix + "post_attention_layernorm.weight", (d,)
    mlp = _moe(config) if config.is_moe(layer) else _swiglu(d, config.intermediate_size, config.mlp_bias)
    yield from _prefixed(prefix + "mlp.", mlp)


def _mtp(config: ModelConfig, layer: int) -> Iterator[tuple[str, Shape]]:
    prefix, d = f"model.layers.{layer}.", config.hidden_size
    yield prefix + "enorm.weight", (d,)
    yield prefix + "hnorm.weight", (d,)
    yield prefix + "eh_proj.weight", (d, 2 * d)
    yield from _layer(config, layer)
    yield prefix + "shared_head.norm.weight", (d,)


def _mla(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    d, heads, bias = config.hidden_size, config.num_attention_heads, config.attention_bias
    if config.q_lora_rank is None:
        yield from _linear("q_proj", heads * config.qk_head_dim, d, False)
    else:
        yield from _linear("q_a_proj", config.q_lora_rank, d, bias)
        yield "q_a_layernorm.weight", (config.q_lora_rank,)
        yield from _linear("q_b_proj", heads * config.qk_head_dim, config.q_lora_rank, False)
    yield from _linear("kv_a_proj_with_mqa", config.kv_lora_rank + config.qk_rope_head_dim, d, bias)
    yield "kv_a_layernorm.weight", (config.kv_lora_rank,)
    yield from _linear("kv_b_proj", heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank, False)
    yield from _linear("o_proj", d, heads * config.v_head_dim, bias)


def _gqa(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    d, width = config.hidden_size, config.head_dim
    yield from _linear("q_proj", config.num_attention_heads * width, d, config.qkv_bias)
    yield from _linear("k_proj", config.num_key_value_heads * width, d, config.qkv_bias)
    yield from _linear("v_proj", config.num_key_value_heads * width, d, config.qkv_bias)
    yield from _linear("o_proj", d, config.num_attention_heads * width, config.attention_bias)
    if config.model_type == "qwen3":
        yield "q_norm.weight", (width,)
        yield "k_norm.weight", (width,)


def _moe(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    d, width = config.hidden_size, config.moe_intermediate_size
    yield "gate.weight", (config.n_routed_experts, d)
    yield "gate.e_score_correction_bias", (config.n_routed_experts,)
    for expert in range(config.n_routed_experts):
        yield from _prefixed(f"experts.{expert}.", _swiglu(d, width, False))
    if config.n_shared_experts:
        yield from _prefixed("shared_experts.", _swiglu(d, width * config.n_shared_experts, False))


def _swiglu(d: int, width: int, bias: bool) -> Iterator[tuple[str, Shape]]:
    yield from _linear("gate_proj", width, d, bias)
    yield from _linear("up_proj", width, d, bias)
    yield from _linear("down_proj", d, width, bias)


def _linear(name: str, rows: int, columns: int, bias: bool) -> Iterator[tuple[str, Shape]]:
    yield name + ".weight", (rows, columns)
    if bias:
        yield name + ".bias", (rows,)


def _prefixed(prefix: str, items: Iterator[tuple[str, Shape]]) -> Iterator[tuple[str, Shape]]:
    return ((prefix + name, shape) for name, shape in items)
