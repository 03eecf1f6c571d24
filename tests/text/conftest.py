"""Session-wide tokenizers for the text tests: real ones from the shared fixtures, and a small one trained here."""
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from doran.text.tokenizer import Tokenizer, train_bpe

sys.path.insert(0, str(Path(__file__).parent))
import real_tokenizers  # noqa: E402

TEXTS = ["the cat sat on the mat, then the cat ran.", "3 + 4 = 7, 12 * 5 = 60", "고양이가 매트 위에 앉았다. 안녕하세요, 여러분."] * 3


@pytest.fixture(scope="session")
def small() -> Tokenizer:
    return train_bpe(TEXTS, 1400, 999)


@pytest.fixture(scope="session")
def real_folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a name in real_tokenizers.py to its folder, built once."""
    built: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if not (shared_data / "tokenizers").is_dir():
            pytest.skip("the shared tokenizer files are not here")
        if name not in built:
            built[name] = getattr(real_tokenizers, name)(shared_data, tmp_path_factory.mktemp(name) / "model")
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
