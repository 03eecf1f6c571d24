"""A Qwen2 folder with random weights, written by transformers alone: to try commands before a real one is on disk.

    python examples/random_qwen2.py DIR                                    # about 0.2M parameters, its own tokenizer
    python examples/random_qwen2.py DIR --size 0.5b --tokenizer FOLDER     # the shape of Qwen2-0.5B, a real tokenizer

It knows nothing: what it is good for is seeing that a command runs, and what memory and time it takes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.1},
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "max_position_embeddings": 32768, "rope_theta": 1e6, "vocab_size": 151936},
}  # fmt: skip
CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
TEXT = "What is 12 + 30? It is 42. 도란도란: 열둘 더하기 서른은 마흔둘입니다. <think> 0123456789 </think>"


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few merges, with Qwen's special tokens and chat template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator([TEXT] * 4, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = CHATML
    return made


def main() -> None:
    """Write the folder."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--size", choices=SIZES, default="tiny")
    asked.add_argument("--tokenizer", type=Path, help="folder of a tokenizer to take")
    args = asked.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer) if args.tokenizer else small_tokenizer()
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHATML
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    shape = {"vocab_size": len(tokenizer), **SIZES[args.size]}
    torch.manual_seed(0)
    config = Qwen2Config(**shape, tie_word_embeddings=True, bos_token_id=None, eos_token_id=end)
    Qwen2ForCausalLM(config).save_pretrained(args.folder)
    tokenizer.save_pretrained(args.folder)
    print(args.folder)


if __name__ == "__main__":
    main()
