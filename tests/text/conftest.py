"""Session-wide tokenizers for the text tests: real ones from the shared fixtures, and a small one trained here."""
from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from doran.text.tiktoken import LLAMA3_PATTERN, from_ranks, read_ranks
from doran.text.tokenizer import Tokenizer, train_bpe

settings.register_profile("no deadline", deadline=None)  # a busy machine is not a failure
settings.load_profile("no deadline")

TEXTS = [
    "the cat sat on the mat, then the cat ran.", "3 + 4 = 7, 12 * 5 = 60", "고양이가 매트 위에 앉았다. 안녕하세요."
] * 3


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


BUILD = {"qwen2": qwen2, "gpt2": gpt2, "llama3": llama3, "deepseek": deepseek}


@pytest.fixture(scope="session")
def small() -> Tokenizer:
    return train_bpe(TEXTS, 1400, 999)


@pytest.fixture(scope="session")
def real_folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a name in BUILD to its folder, built once."""
    built: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if not (shared_data / "tokenizers").is_dir():
            pytest.skip("the shared tokenizer files are not here")
        if name not in built:
            built[name] = BUILD[name](shared_data, tmp_path_factory.mktemp(name) / "model")
        return built[name]

    return folder


@pytest.fixture(scope="session")
def real(real_folder: Callable[[str], Path]) -> Callable[[str], Tokenizer]:
    """A function from such a name to its Tokenizer, loaded once."""
    loaded: dict[str, Tokenizer] = {}

    def tokenizer(name: str) -> Tokenizer:
        if name not in loaded:
            loaded[name] = Tokenizer.load(real_folder(name))
        return loaded[name]

    return tokenizer
