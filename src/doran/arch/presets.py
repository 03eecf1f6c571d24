"""Shapes worth a name: the released models and a small one for tests. Presets hold sizes, no behaviour."""

from __future__ import annotations

from typing import Any

from doran.arch.config import ModelConfig
from doran.arch.rope_scaling import RopeScaling


def deepseek_v3() -> ModelConfig:
    """DeepSeek-V3 and R1: 671,026,419,200 parameters and one MTP module."""
    return ModelConfig(
        model_type="deepseek_v3", vocab_size=129280, hidden_size=7168, intermediate_size=18432, num_hidden_layers=61,
        num_attention_heads=128, max_position_embeddings=163840, rms_norm_eps=1e-6, rope_theta=10000.0,
        rope_scaling=RopeScaling(rope_type="yarn", factor=40, original_max_position_embeddings=4096, mscale=1.0,
                                 mscale_all_dim=1.0),
        bos_token_id=0, eos_token_id=1, torch_dtype="bfloat16",
        q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
        n_routed_experts=256, num_experts_per_tok=8, moe_intermediate_size=2048, n_shared_experts=1,
        first_k_dense_replace=3, n_group=8, topk_group=4, norm_topk_prob=True, routed_scaling_factor=2.5,
        num_nextn_predict_layers=1,
    )  # fmt: skip


_QWEN2_5 = {  # hidden, intermediate, layers, heads, kv heads, tied, vocabulary
    "0.5b": (896, 4864, 24, 14, 2, True, 151936),
    "1.5b": (1536, 8960, 28, 12, 2, True, 151936),
    "3b": (2048, 11008, 36, 16, 2, True, 151936),
    "7b": (3584, 18944, 28, 28, 4, False, 152064),
    "14b": (5120, 13824, 48, 40, 8, False, 152064),
    "32b": (5120, 27648, 64, 40, 8, False, 152064),
    "72b": (8192, 29568, 80, 64, 8, False, 152064),
}


def qwen2_5(size: str) -> ModelConfig:
    """Qwen2.5 by its size: 0.5b, 1.5b, 3b, 7b, 14b, 32b, 72b."""
    hidden, intermediate, layers, heads, kv_heads, tied, vocabulary = _QWEN2_5[size]
    return ModelConfig(
        model_type="qwen2", vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=tied,
        max_position_embeddings=32768, rms_norm_eps=1e-6, rope_theta=1e6, bos_token_id=151643, eos_token_id=151645,
        torch_dtype="bfloat16",
    )  # fmt: skip


def llama3_8b() -> ModelConfig:
    """Llama 3.1 8B."""
    return ModelConfig(
        model_type="llama", vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=131072, rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=RopeScaling(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                 original_max_position_embeddings=8192),
        bos_token_id=128000, eos_token_id=128001, torch_dtype="bfloat16",
    )  # fmt: skip


def tiny(model_type: str = "deepseek_v3", **changes: Any) -> ModelConfig:
    """A model small enough for a test (about 0.1M parameters), with every part of its family; `changes` override."""
    shape: dict[str, Any] = {
        "model_type": model_type, "vocab_size": 96, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 4 if model_type == "deepseek_v3" else 2,
        "max_position_embeddings": 512, "initializer_range": 0.05, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    if model_type == "deepseek_v3":
        shape |= {
            "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
            "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1,
            "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5,
            "num_nextn_predict_layers": 1,
        }  # fmt: skip
    else:
        shape["head_dim"] = 16
    return ModelConfig(**(shape | changes))
