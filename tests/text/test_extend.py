"""New Korean merges: fewer tokens, English untouched, the library agrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from doran.base.errors import ConfigError, DataError
from doran.text.extend import extend_bpe, is_korean_piece
from doran.text.folder import Settings
from doran.text.tokenizer import Tokenizer, train_bpe

KOREAN = [
    "어머니는 시장에서 사과를 사셨습니다.",
    "아버지는 시장에서 배를 사셨습니다.",
    "동생은 학교에서 책을 읽었습니다.",
] * 5
ENGLISH = "The mother bought apples at the market: 3 + 4 = 7, naïve café “quoted” 漢字 かな 🙂 x=1\n\tdef f():"


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return train_bpe(["the mother bought apples at the market", "안녕하세요 시장"] * 9, 420, whole_numbers_up_to=99)


def test_korean_gets_shorter_and_everything_else_keeps_its_ids(small: Tokenizer) -> None:
    made = extend_bpe(small, KOREAN, 60)
    assert 20 < made.num_new <= 60 and made.first_id == small.vocab_size
    for text in KOREAN[:3]:
        before, after = small.encode(text), made.tokenizer.encode(text)
        assert len(after) < len(before) / 2 and made.tokenizer.decode(after) == text
        unfolded = [old for i in after for old in (made.pieces[i - made.first_id] if i >= made.first_id else [i])]
        assert unfolded == before  # a new token is exactly its pieces
    assert made.tokenizer.encode(ENGLISH) == small.encode(ENGLISH)
    chat = [{"role": "user", "content": "사과 3개"}]
    assert made.tokenizer.encode_chat(chat)[0] == made.tokenizer.bos_id == small.bos_id


def test_the_same_texts_give_the_same_tokens_and_the_folder_round_trips(small: Tokenizer, tmp_path: Path) -> None:
    made, again = extend_bpe(small, KOREAN, 30), extend_bpe(small, KOREAN, 30)
    assert made.pieces == again.pieces
    made.tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.vocab_size == made.tokenizer.vocab_size
    assert loaded.encode(KOREAN[0]) == made.tokenizer.encode(KOREAN[0])
    twice = extend_bpe(loaded, ["도서관에서 공부했습니다"] * 3, 5)
    assert twice.first_id == loaded.vocab_size and twice.num_new == 5


def test_what_makes_a_korean_piece() -> None:
    def spelt(raw: bytes) -> str:
        from doran.text.extend import _BYTE_OF

        char = {byte: char for char, byte in _BYTE_OF.items()}
        return "".join(char[byte] for byte in raw)

    good = ["가".encode(), " 가나".encode(), "가".encode()[:2], " 가".encode() + "나".encode()[:1]]
    bad = [b"a", b"  ", "가".encode()[1:], "漢".encode()[:2], *(text.encode() for text in ("가a", "漢", "é", "가1"))]
    assert [is_korean_piece(spelt(raw)) for raw in good + bad] == [True] * len(good) + [False] * len(bad)


def test_nothing_to_learn_and_the_wrong_kind_are_named(small: Tokenizer) -> None:
    with pytest.raises(DataError, match="no Korean words"):
        extend_bpe(small, ["only English"], 5)
    with pytest.raises(ConfigError, match="1 or more"):
        extend_bpe(small, KOREAN, 0)
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models

    words = Backend(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.decoder = decoders.ByteLevel()
    with pytest.raises(ConfigError, match="WordLevel, not BPE"):
        extend_bpe(Tokenizer(words, Settings()), KOREAN, 5)


@pytest.mark.parametrize("name", ["gpt2", "qwen2.5"])
def test_real_tokenizers_are_extended_and_transformers_agrees(name: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"no {name}")
    tokenizer = Tokenizer.load(folder)
    made = extend_bpe(tokenizer, KOREAN, 40)
    assert made.tokenizer.encode(ENGLISH) == tokenizer.encode(ENGLISH)
    assert len(made.tokenizer.encode(KOREAN[0])) < len(tokenizer.encode(KOREAN[0]))
    made.tokenizer.save(tmp_path)
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(KOREAN[0], add_special_tokens=False) == made.tokenizer.encode(KOREAN[0])
    assert len(theirs) == made.tokenizer.vocab_size
