"""HF folders of real tokenizers, built from the shared fixtures' vocabularies. Not a test."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

from doran.text.tiktoken import LLAMA3_PATTERN, from_ranks, read_ranks


def qwen2(data: Path, out: Path) -> Path:
    """As shipped but without tokenizer.json: vocab.json, merges.txt and the configs."""
    shutil.copytree(data / "tokenizers/qwen2.5", out)
    return out


def gpt2(data: Path, out: Path) -> Path:
    shutil.copytree(data / "tokenizers/gpt2", out)
    return out


def llama3(data: Path, out: Path) -> Path:
    source = data / "tokenizers/llama3"
    shutil.copytree(source, out)
    declared = json.loads((source / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    specials = {token["content"]: int(index) for index, token in declared.items()}
    from_ranks(read_ranks(source / "tokenizer.model"), [LLAMA3_PATTERN], specials).save(str(out / "tokenizer.json"))
    return out


def deepseek(data: Path, out: Path) -> Path:
    source = data / "tokenizers/deepseek-v3-r1"
    out.mkdir()
    shutil.copy(source / "tokenizer_config.json", out)
    specials = json.loads((source / "special_tokens.json").read_text())
    specials |= {f"<｜place▁holder▁no▁{n}｜>": 128000 + n for n in range(798)}
    patterns = json.loads((source / "pretokenizer.json").read_text())["patterns"]
    from_ranks(read_ranks(source / "vocab.tiktoken.gz"), patterns, specials).save(str(out / "tokenizer.json"))
    return out
