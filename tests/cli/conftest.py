"""A tiny random model folder written by transformers, with a tokenizer and chat template of our own training."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2-shaped folder, as it would come from elsewhere."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from doran.text.tokenizer import train_bpe

    folder = tmp_path_factory.mktemp("tiny") / "model"
    tokenizer = train_bpe(["도란도란 이야기 think about 3 + 4 = 7"] * 4, vocab_size=600, whole_numbers_up_to=99)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_id,
        bos_token_id=tokenizer.bos_id,
        initializer_range=0.3,  # large, so that no two logits nearly tie
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save(folder)
    return folder
