from __future__ import annotations

import gzip

import pytest

from doran.base.errors import DataError
from doran.data.texts import read_texts


def test_documents_come_in_order_from_every_kind_of_file(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n\n \n\n", encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("셋".encode()))
    (tmp_path / "c.jsonl").write_text('{"text": "four"}\n{"text": " "}\n')
    paths = [tmp_path / name for name in ("a.txt", "b.txt.gz", "c.jsonl")]
    assert list(read_texts(paths)) == ["one\n\ntwo\n\n \n\n", "셋", "four"]
    assert list(read_texts(paths[:1], split_on="\n\n")) == ["one", "two"]


def test_a_row_without_text_is_named_with_what_it_holds(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"body": "y"}\n')
    with pytest.raises(DataError, match="line 2: no text in 'text'; the row holds body"):
        list(read_texts([tmp_path / "a.jsonl"]))
    with pytest.raises(DataError, match="no such file"):
        list(read_texts([tmp_path / "none.txt"]))


def test_shared_korean_text_reads(shared_data):
    names = ("kim_yujeong_camellia.txt", "fairytales.jsonl")
    texts = list(read_texts(shared_data / "text_ko" / name for name in names))
    assert len(texts) > 10 and all(text.strip() for text in texts)
