from __future__ import annotations

import gzip
import json

import pytest

from doran.base.errors import DataError
from doran.data.rows import read_rows

ROWS = [{"prompt": "1+1", "answer": "2"}, {"prompt": "안녕", "answer": "네"}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"


def test_jsonl_gzip_and_parquet_give_the_same_rows(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (tmp_path / "a.jsonl").write_text(LINES, encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        assert [row.value for row in read_rows(tmp_path / name)] == ROWS


def test_fields_are_renamed(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    assert next(read_rows(tmp_path / "a.jsonl", {"question": "prompt"})).value == {"prompt": "q", "answer": "a"}


def test_blank_lines_pass_and_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('\ufeff{"a": 1}\n\n{"b": 2}\n', encoding="utf-8")
    assert [row.where[-6:] for row in read_rows(tmp_path / "a.jsonl")] == ["line 1", "line 3"]


@pytest.mark.parametrize(
    "name, content, named",
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b"[1]\n", "line 1: a list, not an object"),
        ("a.jsonl", b'{"a": 1}\n\xff\xfe\n', "not UTF-8"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(LINES.encode())[:-12], "cannot be read"),
        ("a.parquet", b"no parquet", "not readable Parquet"),
        ("a.xlsx", b"", "not a known kind"),
    ],
)
def test_a_broken_file_names_itself_and_the_line(tmp_path, name, content, named):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=named):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["none.jsonl", "none.jsonl.gz", "none.parquet"])
def test_an_absent_file_is_named(tmp_path, name):
    with pytest.raises(DataError, match="no such file"):
        list(read_rows(tmp_path / name))
