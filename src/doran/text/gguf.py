"""A tokenizer as GGUF metadata, and back. llama.cpp cuts text by rules it knows by name; for others we say so.

`tokenizer.huggingface.json` (a key of the GGUF standard) carries the whole tokenizer.json, so that doran reads back
exactly what was written; llama.cpp reads the lists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from doran.base.errors import ArtifactError, ConfigError
from doran.text.folder import QWEN2_PATTERN, Settings, split_then_bytes
from doran.text.tiktoken import LLAMA3_PATTERN
from doran.text.tokenizer import Tokenizer

DEEPSEEK_PATTERNS = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
_PATTERNS: dict[str, tuple[str, ...]] = {
    "qwen2": (QWEN2_PATTERN,), "llama-bpe": (LLAMA3_PATTERN,), "deepseek-v3": DEEPSEEK_PATTERNS, "gpt-2": ()
}  # fmt: skip
_SAME = {"deepseek-r1-qwen": "qwen2", "llama3": "llama-bpe", "llama-v3": "llama-bpe", "phi-2": "gpt-2"}
_NORMAL, _CONTROL, _USER, _UNUSED = 1, 3, 4, 5


def rule_name(backend: Backend) -> str | None:
    """llama.cpp's name for how this tokenizer cuts text; None where it has no such rule."""
    cut = json.loads(backend.to_str()).get("pre_tokenizer") or {}
    steps = cut.get("pretokenizers", [cut])
    if [s.get("type") for s in steps] == ["ByteLevel"]:
        return "gpt-2" if steps[0].get("use_regex", True) and not steps[0].get("add_prefix_space") else None
    found = tuple(s["pattern"].get("Regex") for s in steps if s.get("type") == "Split")
    return next((name for name, patterns in _PATTERNS.items() if patterns and patterns == found), None)


def to_metadata(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """The `tokenizer.*` pairs for a model of `vocab_size` rows. Without a known rule, `pre` is gpt-2's: say so."""
    state = json.loads(tokenizer.backend.to_str())
    by_id = {index: token for token, index in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
    added = tokenizer.backend.get_added_tokens_decoder()
    tokens, kinds = [], []
    for index in range(max(vocab_size, tokenizer.vocab_size)):
        tokens.append(by_id.get(index, f"[PAD{index}]"))
        special = index in added and (added[index].special or tokens[-1] in tokenizer.control_tokens)
        kinds.append(_UNUSED if index not in by_id else _CONTROL if special else _USER if index in added else _NORMAL)
    merges = [m if isinstance(m, str) else " ".join(m) for m in state["model"]["merges"]]
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": rule_name(tokenizer.backend) or "gpt-2",
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": False, "tokenizer.huggingface.json": json.dumps(state, ensure_ascii=False),
    }  # fmt: skip
    for name, special_id in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id), ("padding", tokenizer.pad_id)):
        if special_id is not None:
            found[f"tokenizer.ggml.{name}_token_id"] = special_id
    template = tokenizer.chat_template
    text = template.get("default") if isinstance(template, dict) else template
    return found | ({"tokenizer.chat_template": text} if text else {})


def from_metadata(metadata: Mapping[str, Any], where: str = "the GGUF file") -> Tokenizer:
    """The tokenizer of a GGUF file. ArtifactError: lists missing; ConfigError: a rule or style we do not know."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        raise ArtifactError(f"{where} holds no tokenizer", hint="use a file with tokenizer.ggml.tokens")
    if "tokenizer.huggingface.json" in metadata:
        backend = Backend.from_str(metadata["tokenizer.huggingface.json"])
    else:
        backend = _rebuild(metadata, tokens, where)

    def token(name: str) -> str | None:
        index = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return tokens[index] if isinstance(index, int) and index < len(tokens) else None

    settings = Settings(
        bos_token=token("bos"), eos_token=token("eos"), pad_token=token("padding"),
        chat_template=metadata.get("tokenizer.chat_template"),
        stop_ids=tuple(i for i in [metadata.get("tokenizer.ggml.eos_token_id")] if isinstance(i, int)),
    )  # fmt: skip
    return Tokenizer(backend, settings)


def _rebuild(metadata: Mapping[str, Any], tokens: list[str], where: str) -> Backend:
    style, rule = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "gpt-2")
    rule = _SAME.get(rule, rule)
    if style != "gpt2" or rule not in _PATTERNS:
        raise ConfigError(
            f"{where}: its tokenizer is {style!r} with the rule {rule!r}",
            hint=f"known are byte-level BPE (gpt2) with {', '.join([*_PATTERNS, *_SAME])}",
        )
    kinds = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    merges = [tuple(m.split(" ", 1)) for m in metadata.get("tokenizer.ggml.merges", [])]
    backend = Backend(
        models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, ignore_merges=rule == "llama-bpe")
    )
    if rule == "qwen2":
        backend.normalizer = normalizers.NFC()
    patterns = _PATTERNS[rule]
    backend.pre_tokenizer = (
        split_then_bytes(*patterns) if patterns else pre_tokenizers.ByteLevel(add_prefix_space=False)
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([
        AddedToken(t, special=kind == _CONTROL, normalized=False)
        for t, kind in zip(tokens, kinds, strict=True) if kind in (_CONTROL, _USER)
    ])  # fmt: skip
    return backend
