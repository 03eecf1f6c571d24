"""GGUF's names and keys for our families, in both directions: llama, qwen2, qwen3, and deepseek2 for deepseek_v3.

What differs beyond names: llama.cpp rotates neighbouring dimensions for `llama`, so rows of q and k are re-ordered;
MLA's kv_b_proj is two tensors, keys transposed; experts are one stack a projection; llama3's frequencies are a tensor.
The file format is formats/gguf.py, the tokenizer text/gguf.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from doran.arch.config import ModelConfig
from doran.arch.rope_scaling import RopeScaling
from doran.arch.tensors import tensors
from doran.base.errors import ArtifactError, ConfigError
from doran.formats.gguf import GGUFFile
from doran.formats.quant import Stored
from doran.models.source import Entry, plain

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "deepseek_v3": "deepseek2"}
_SIGMOID = 2
_PLAIN = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}  # fmt: skip


def gguf_name(name: str) -> tuple[str, int | None]:
    """GGUF's tensor for a checkpoint's name, and the expert's row in it. KeyError for kv_b_proj, which becomes two."""
    stem, _, last = name.rpartition(".")
    if stem in _PLAIN:
        return f"{_PLAIN[stem]}.{last}", None
    _, _, layer, part = stem.split(".", 3)
    if last == "e_score_correction_bias":
        return f"blk.{layer}.exp_probs_b.bias", None
    if part.startswith("mlp.experts."):
        _, _, expert, projection = part.split(".")
        return f"blk.{layer}.ffn_{projection.removesuffix('_proj')}_exps.weight", int(expert)
    return f"blk.{layer}.{_PARTS[part]}.{last}", None


def row_order(name: str, config: ModelConfig) -> Tensor | None:
    """For llama's q and k: which of the checkpoint's rows stands in each of GGUF's; None where none moves."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    part = name.split(".")[-2]
    if config.model_type != "llama" or part not in heads:
        return None
    rows = torch.arange(heads[part] * config.head_dim)
    return rows.view(heads[part], 2, config.head_dim // 2).transpose(1, 2).reshape(-1)


def split_kv_b(weight: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """kv_b_proj (H (N + V), C) -> attn_k_b (H, C, N) and attn_v_b (H, V, C)."""
    heads = weight.unflatten(0, (config.num_attention_heads, -1))
    keys, values = heads.split((config.qk_nope_head_dim, config.v_head_dim), dim=1)
    return keys.transpose(1, 2).contiguous(), values.contiguous()


def join_kv_b(keys: Tensor, values: Tensor) -> Tensor:
    """The inverse of split_kv_b."""
    return torch.cat((keys.transpose(1, 2), values), 1).flatten(0, 1)


def metadata(config: ModelConfig) -> dict[str, Any]:
    """The shape as `general.*` and `ARCH.*` pairs."""
    arch, c = ARCHITECTURES[config.model_type], config
    keys: dict[str, Any] = {
        "block_count": c.num_hidden_layers, "context_length": c.max_position_embeddings, "vocab_size": c.vocab_size,
        "embedding_length": c.hidden_size, "feed_forward_length": c.intermediate_size,
        "attention.head_count": c.num_attention_heads, "attention.layer_norm_rms_epsilon": float(c.rms_norm_eps),
        "attention.head_count_kv": 1 if c.is_mla else c.num_key_value_heads, "rope.freq_base": float(c.rope_theta),
        "rope.dimension_count": c.rope_dim,
    }  # fmt: skip
    keys |= _mla_keys(c) if c.is_mla else {"attention.key_length": c.head_dim, "attention.value_length": c.head_dim}
    keys |= _rope_keys(c)
    return {"general.architecture": arch, "general.alignment": 32} | {f"{arch}.{k}": v for k, v in keys.items()}


def _mla_keys(c: ModelConfig) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "attention.kv_lora_rank": c.kv_lora_rank, "attention.key_length": c.kv_lora_rank + c.qk_rope_head_dim,
        "attention.value_length": c.kv_lora_rank, "attention.key_length_mla": c.qk_head_dim,
        "attention.value_length_mla": c.v_head_dim, "leading_dense_block_count": c.first_k_dense_replace,
        "expert_feed_forward_length": c.moe_intermediate_size or c.intermediate_size,
        "expert_count": c.n_routed_experts, "expert_used_count": c.num_experts_per_tok,
        "expert_shared_count": c.n_shared_experts, "expert_weights_scale": float(c.routed_scaling_factor),
        "expert_weights_norm": c.norm_topk_prob, "expert_gating_func": _SIGMOID,
    }  # fmt: skip
    keys["attention.q_lora_rank"] = c.q_lora_rank or 0  # llama.cpp wants the key, and takes 0 for "none"
    if c.n_group > 1:
        keys |= {"expert_group_count": c.n_group, "expert_group_used_count": c.topk_group}
    return keys


def _rope_keys(c: ModelConfig) -> dict[str, Any]:
    s = c.rope_scaling
    if s is None or s.rope_type == "llama3":  # llama3's is the tensor rope_freqs
        return {}
    keys: dict[str, Any] = {"rope.scaling.type": s.rope_type, "rope.scaling.factor": float(s.factor)}
    if s.rope_type == "yarn":
        keys |= {
            "rope.scaling.original_context_length": s.original_max_position_embeddings,
            "rope.scaling.yarn_beta_fast": float(s.beta_fast), "rope.scaling.yarn_beta_slow": float(s.beta_slow),
        }  # fmt: skip
        if c.is_mla and s.mscale_all_dim:
            keys["rope.scaling.yarn_log_multiplier"] = 0.1 * s.mscale_all_dim
    return keys


def read_config(meta: dict[str, Any], names: GGUFFile, where: str) -> ModelConfig:
    """The inverse of `metadata`. ConfigError: an unknown architecture or a key that is missing."""
    arch = str(meta.get("general.architecture"))
    model_type = next((ours for ours, theirs in ARCHITECTURES.items() if theirs == arch), None)
    if model_type is None:
        raise ConfigError(f"{where}: unknown architecture {arch!r}", hint=f"known: {', '.join(ARCHITECTURES.values())}")

    def get(key: str, default: Any = None) -> Any:
        value = meta.get(f"{arch}.{key}", default)
        if value is None:
            raise ConfigError(f"{where}: {arch}.{key} is missing", hint="convert the model again")
        return value

    raw: dict[str, Any] = {
        "model_type": model_type, "num_hidden_layers": get("block_count"), "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"), "num_attention_heads": get("attention.head_count"),
        "max_position_embeddings": get("context_length"), "rope_theta": get("rope.freq_base", 10000.0),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "vocab_size": names.infos["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in names, "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta.get("tokenizer.ggml.eos_token_id"),
    }  # fmt: skip
    if model_type == "deepseek_v3":
        raw |= _read_mla(get, meta, arch)
    else:
        width = raw["hidden_size"] // raw["num_attention_heads"]
        raw |= {"num_key_value_heads": get("attention.head_count_kv"), "head_dim": get("attention.key_length", width)}
        raw["attention_bias"] = model_type == "llama" and "blk.0.attn_q.bias" in names
    scaling = _read_scaling(get, meta, names, arch, raw)
    return ModelConfig(**raw, rope_scaling=scaling)


def _read_mla(get: Any, meta: dict[str, Any], arch: str) -> dict[str, Any]:
    if get("expert_gating_func", 1) != _SIGMOID and get("expert_count", 0):
        raise ConfigError("deepseek2 with softmax routing (DeepSeek-V2) is not deepseek_v3", hint="use a V3 or R1 file")
    rope = get("rope.dimension_count")
    return {
        "q_lora_rank": meta.get(f"{arch}.attention.q_lora_rank") or None, "kv_lora_rank": get("attention.kv_lora_rank"),
        "qk_rope_head_dim": rope,
        "v_head_dim": get("attention.value_length_mla", meta.get(f"{arch}.attention.value_length")),
        "qk_nope_head_dim": get("attention.key_length_mla", meta.get(f"{arch}.attention.key_length")) - rope,
        "n_routed_experts": get("expert_count", 0), "num_experts_per_tok": get("expert_used_count", 0),
        "n_shared_experts": get("expert_shared_count", 0),
        "moe_intermediate_size": get("expert_feed_forward_length", 0),
        "first_k_dense_replace": get("leading_dense_block_count", 0), "n_group": get("expert_group_count", 1),
        "topk_group": get("expert_group_used_count", 1), "norm_topk_prob": get("expert_weights_norm", False),
        "routed_scaling_factor": get("expert_weights_scale", 1.0),
    }  # fmt: skip


def _read_scaling(
    get: Any, meta: dict[str, Any], names: GGUFFile, arch: str, raw: dict[str, Any]
) -> RopeScaling | None:
    if "rope_freqs.weight" in names:
        raise ConfigError("rope_freqs.weight: llama3's stretched frequencies are not read from GGUF",
                          hint="use the Hugging Face folder of this model")  # fmt: skip
    kind = meta.get(f"{arch}.rope.scaling.type", "none")
    if kind == "none":
        return None
    known: dict[str, Any] = {"rope_type": kind, "factor": get("rope.scaling.factor")}
    if kind == "yarn":
        known["original_max_position_embeddings"] = get("rope.scaling.original_context_length")
        known["beta_fast"] = meta.get(f"{arch}.rope.scaling.yarn_beta_fast", 32.0)
        known["beta_slow"] = meta.get(f"{arch}.rope.scaling.yarn_beta_slow", 1.0)
        multiplier = meta.get(f"{arch}.rope.scaling.yarn_log_multiplier")
        if multiplier:
            known["mscale"] = known["mscale_all_dim"] = round(multiplier / 0.1, 6)
    return RopeScaling(**known)


class GGUFSource:
    """A GGUF file as a source of weights: blocks stay blocks, experts are read one by one from their stack."""

    def __init__(self, path: str | Path) -> None:
        self.file = GGUFFile(path)
        if "token_embd.weight" not in self.file:
            raise ArtifactError(f"{path}: token_embd.weight is missing", hint="this GGUF file holds no language model")
        self.config = read_config(self.file.metadata, self.file, str(path))
        for name, shape in tensors(self.config):
            self._check(name, shape)

    @property
    def is_quantized(self) -> bool:
        """Are there blocks?"""
        return any(info.kind not in ("f32", "f16", "bf16") for info in self.file.infos.values())

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        if name.endswith("kv_b_proj.weight"):
            layer = f"blk.{name.split('.')[2]}."
            found = layer + "attn_kv_b.weight" in self.file or layer + "attn_k_b.weight" in self.file
            theirs, there = layer + "attn_kv_b.weight", shape if found else ()
        else:
            theirs, expert = gguf_name(name)
            there = self.file.infos[theirs].shape[0 if expert is None else 1 :] if theirs in self.file else ()
        if there != shape:
            state = f"is {list(there)}, its keys ask for {list(shape)}" if there else "is missing"
            raise ArtifactError(f"{self.file.path}: {theirs} {state}", hint="convert the model again")

    def get(self, name: str) -> Entry:
        """One tensor by the hub's name: plain, or Stored."""
        if name.endswith("kv_b_proj.weight"):
            return self._kv_b(f"blk.{name.split('.')[2]}.")
        theirs, expert = gguf_name(name)
        entry, order = self.file.read(theirs, expert), row_order(name, self.config)
        if order is None:
            return entry
        back = order.argsort()
        return entry.rows(back) if isinstance(entry, Stored) else entry[back]

    def _kv_b(self, layer: str) -> Tensor:
        if layer + "attn_kv_b.weight" in self.file:
            return plain(self.file.read(layer + "attn_kv_b.weight"))
        heads = range(self.config.num_attention_heads)
        keys, values = (
            torch.stack([plain(self.file.read(f"{layer}{part}.weight", h)) for h in heads])
            for part in ("attn_k_b", "attn_v_b")
        )
        return join_kv_b(keys.float(), values.float())
