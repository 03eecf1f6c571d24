"""Tokenizers as GGUF metadata: the same ids again, with and without the whole tokenizer.json in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from doran.base.errors import ArtifactError, ConfigError
from doran.text.gguf import from_metadata, rule_name, to_metadata
from doran.text.tokenizer import Tokenizer, train_bpe

TEXTS = ("도란도란 12 + 30 = 42, isn't it?\n\n  def f(x):", "<think>no</think> Hello world  ", "日本 1234567 ü")


def test_our_own_tokenizer_returns_exactly_and_has_no_rule_in_llama_cpp() -> None:
    tokenizer = train_bpe(["도란도란 think 3 + 4 = 7"] * 3, vocab_size=500, whole_numbers_up_to=9)
    assert rule_name(tokenizer.backend) is None
    meta = to_metadata(tokenizer, tokenizer.vocab_size + 5)
    assert len(meta["tokenizer.ggml.tokens"]) == tokenizer.vocab_size + 5
    again = from_metadata(meta)
    assert again.chat_template == tokenizer.chat_template and again.stop_ids == tokenizer.stop_ids
    assert (again.bos_id, again.eos_id, again.pad_id) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)


def test_real_tokenizers_have_rules_and_are_rebuilt_from_the_lists(shared_data: Path) -> None:
    rules = {}
    for folder in sorted((shared_data / "tokenizers").iterdir()):
        if not (folder / "tokenizer.json").exists() and not (folder / "vocab.json").exists():
            continue
        try:
            tokenizer = Tokenizer.load(folder)
        except (ArtifactError, ConfigError):
            continue
        rules[folder.name] = rule = rule_name(tokenizer.backend)
        if rule is None:
            continue
        meta = to_metadata(tokenizer, tokenizer.vocab_size)
        del meta["tokenizer.huggingface.json"]
        again = from_metadata(meta)
        for text in TEXTS:
            assert again.encode(text, specials=True) == tokenizer.encode(text, specials=True), (folder.name, text)
    assert any(rules.values()), rules


def test_files_without_or_with_unknown_tokenizers_are_refused() -> None:
    with pytest.raises(ArtifactError):
        from_metadata({})
    with pytest.raises(ConfigError, match="llama"):
        from_metadata({"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.model": "llama"})
