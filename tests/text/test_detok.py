from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doran.text.detok import BYTE_OF, Detokenizer, token_bytes
from doran.text.tokenizer import Tokenizer, train_bpe

BYTES_ONLY = train_bpe([], 7 + 256, 0)


def stream(tokenizer: Tokenizer, ids: list[int], skip_special: bool = False) -> list[str]:
    detok = Detokenizer(tokenizer, skip_special)
    return [*map(detok.feed, ids), detok.close()]


def test_the_byte_alphabet_covers_every_byte_once():
    assert sorted(BYTE_OF.values()) == list(range(256)) and len(BYTE_OF) == 256
    assert token_bytes("Ġ가") == "Ġ가".encode()  # outside the alphabet: an added token, itself


def test_korean_over_byte_tokens_comes_syllable_by_syllable():
    ids = BYTES_ONLY.encode("안녕!")
    assert len(ids) == 7
    assert stream(BYTES_ONLY, ids) == ["", "", "안", "", "", "녕", "!", ""]


def test_ids_that_end_inside_a_character_lose_nothing():
    ids = BYTES_ONLY.encode("가나")[:5]
    assert stream(BYTES_ONLY, ids)[-1] == "\ufffd"
    assert "".join(stream(BYTES_ONLY, ids)) == BYTES_ONLY.decode(ids)


@given(st.lists(st.integers(0, BYTES_ONLY.vocab_size + 2), max_size=24), st.booleans())
def test_any_ids_stream_to_what_decode_gives(ids, skip_special):
    assert "".join(stream(BYTES_ONLY, ids, skip_special)) == BYTES_ONLY.decode(ids, skip_special)


@given(st.text())
def test_no_piece_of_real_text_holds_half_a_character(text):
    ids = BYTES_ONLY.encode(text)
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in stream(BYTES_ONLY, ids))
    assert "".join(stream(BYTES_ONLY, ids)) == text


@pytest.mark.parametrize("name", ["qwen2", "llama3", "deepseek"])
def test_real_tokenizers_stream_to_what_decode_gives(real, name):
    tokenizer = real(name)
    ids = [*tokenizer.encode("<think>\n한국어 🙂🇰🇷 ½\n</think> 끝", specials=True), tokenizer.eos_id]
    for skip in (False, True):
        assert "".join(stream(tokenizer, ids, skip)) == tokenizer.decode(ids, skip)
