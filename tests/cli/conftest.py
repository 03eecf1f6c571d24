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


CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


def save_foreign_tokenizer(folder: Path) -> int:
    """A small BPE as transformers saves it, with a ChatML template like Qwen's; returns its vocabulary size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["user assistant the answer is 3 + 4 = 7, 도란도란 이야기 정답은 7입니다"] * 4, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    wrapped.chat_template = CHATML
    wrapped.save_pretrained(folder)
    return len(wrapped)


@pytest.fixture(scope="session")
def foreign_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 folder written by transformers alone, tokenizer included."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("foreign") / "qwen2"
    vocab_size = save_foreign_tokenizer(folder)
    torch.manual_seed(0)
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            bos_token_id=None,
            eos_token_id=2,
            tie_word_embeddings=True,
            initializer_range=0.3,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def foreign_deepseek(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random DeepSeek-V3 folder written by transformers alone, tokenizer included."""
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    folder = tmp_path_factory.mktemp("foreign") / "deepseek"
    vocab_size = save_foreign_tokenizer(folder)
    torch.manual_seed(0)
    DeepseekV3ForCausalLM(
        DeepseekV3Config(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=48,
            moe_intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            n_routed_experts=8,
            n_shared_experts=1,
            num_experts_per_tok=2,
            n_group=2,
            topk_group=1,
            first_k_dense_replace=1,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=8,
            v_head_dim=8,
            max_position_embeddings=1024,
            bos_token_id=None,
            eos_token_id=2,
            initializer_range=0.3,
        )
    ).save_pretrained(folder)
    return folder
