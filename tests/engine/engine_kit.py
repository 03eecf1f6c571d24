"""Small models of two families, for the tests of the engine. No test here."""

from __future__ import annotations

from doran.arch.config import ModelConfig

CONFIGS = {
    "deepseek_v3": ModelConfig(
        model_type="deepseek_v3", vocab_size=61, hidden_size=24, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=2, q_lora_rank=12, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6,
        n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, n_shared_experts=1,
        first_k_dense_replace=1, n_group=2, topk_group=1, routed_scaling_factor=1.5, max_position_embeddings=96,
        initializer_range=0.25, num_nextn_predict_layers=1,
    ),
    "qwen2": ModelConfig(
        model_type="qwen2", vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96, initializer_range=0.25,
        tie_word_embeddings=True,
    ),
}  # fmt: skip
