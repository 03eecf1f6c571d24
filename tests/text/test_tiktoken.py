from __future__ import annotations

import base64
import gzip
import json
from itertools import pairwise

import pytest

from doran.base.errors import ArtifactError, ConfigError
from doran.text.detok import token_bytes
from doran.text.tiktoken import from_ranks, read_ranks

LETTERS = {bytes([n]): n for n in range(256)}


def slow_bpe(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Tiktoken's rule, by the book: join the neighbours whose joined bytes rank lowest until none is known."""
    parts = [bytes([byte]) for byte in piece]
    while True:
        known = [(ranks[a + b], n) for n, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not known:
            return [ranks[part] for part in parts]
        _, n = min(known)
        parts[n : n + 2] = [parts[n] + parts[n + 1]]


def test_merges_follow_the_ranks_of_the_joined_bytes():
    ranks = LETTERS | {b"ab": 256, b"bc": 257, b"abc": 258, b"cab": 259, b"bcab": 260}
    backend = from_ranks(ranks, [r"\S+|\s+"], {"<end>": 261})
    for text in ("abc", "abcab", "bcabbc", "cabcab", "aabbcc", "안녕"):
        assert backend.encode(text).ids == slow_bpe(text.encode(), ranks)
    assert backend.encode("ab<end>").ids == [256, 261]


def test_a_gap_before_a_special_token_is_refused():
    with pytest.raises(ConfigError, match="<end>.*300"):
        from_ranks(LETTERS, [r"\S+"], {"<end>": 300})


def test_a_broken_line_is_named(tmp_path):
    good = base64.b64encode(b"a").decode()
    (tmp_path / "ranks").write_text(f"{good} 0\nnot base64\n")
    with pytest.raises(ArtifactError, match="line 2"):
        read_ranks(tmp_path / "ranks")


def test_deepseek_r1_encodes_the_published_vector(shared_data, real):
    tokenizer = real("deepseek")
    with gzip.open(shared_data / "tokenizers/deepseek-v3-r1/encode_vector.json.gz") as file:
        vector = json.load(file)
    ids = next(value for value in vector.values() if isinstance(value, list))
    assert [tokenizer.bos_id, *tokenizer.encode(vector["text"])] == ids
    assert tokenizer.decode(ids[1:]) == vector["text"]
    assert tokenizer.vocab_size == 128815 and tokenizer.id_of("<think>") == 128798


@pytest.mark.parametrize("name, key", [("qwen2", "qwen2.5"), ("gpt2", "gpt2"), ("llama3", "llama3")])
def test_real_tokenizers_encode_the_published_vectors(shared_data, real, name, key):
    tokenizer = real(name)
    for line in (shared_data / "tokenizers/encode_vectors.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert tokenizer.encode(row["text"]) == row[key], row["text"]
        assert tokenizer.decode(row[key]) == row["text"]


def test_bytes_of_tokens_spell_the_text(real):
    tokenizer = real("llama3")
    tokens = [tokenizer.backend.id_to_token(index) for index in tokenizer.encode("안녕 Führer 🙂\n")]
    assert b"".join(map(token_bytes, tokens)).decode() == "안녕 Führer 🙂\n"
