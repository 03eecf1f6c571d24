"""Reading a user's questions: every shape of row, and every way to get one wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from doran.base.errors import DataError
from doran.tasks.rows import final_answer, read_items, row_items
from doran.tasks.task import Item


def items_of(**row: Any) -> list[Item]:
    return row_items(row, "here", "jsonl")


def test_prompt_and_answer() -> None:
    (item,) = items_of(prompt="1+1?", answer=2, id="a")
    assert (item.prompt, item.answer, item.language, item.meta) == ("1+1?", "2", "en", {"id": "a"})


def test_question_with_a_worked_answer() -> None:
    (item,) = items_of(question="사과는 몇 개?", answer="3+4=7\n#### 7")
    assert (item.answer, item.language, item.meta["solution"]) == ("7", "ko", "3+4=7\n#### 7")


def test_messages_end_with_the_answer() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "1+1?"},
                {"role": "assistant", "content": "<think>x</think>So \\boxed{2}"}]
    (item,) = items_of(messages=messages)
    assert (item.prompt, item.answer, item.meta["messages"]) == ("1+1?", "2", messages[:-1])


def test_a_row_in_two_languages_gives_two_items_of_one_key() -> None:
    ko, en = items_of(question_ko="몇 개?", answer_ko="3", question_en="How many?", answer_en="3")
    assert (ko.language, en.language) == ("ko", "en") and ko.key == en.key


@pytest.mark.parametrize(("text", "answer"), [
    ("#### 1,000", "1,000"), ("It is \\boxed{7}.", "7"), ("정답은 3입니다.", "3"), ("just text", "just text"),
    ("7", "7"),
])
def test_the_final_answer_of_a_solution(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(("line", "words"), [
    ("{broken", "not valid JSON"), ("[1]", "JSON object"), ('{"text": "x"}', "give prompt and answer"),
    ("{}", "no fields"),
    ('{"prompt": "x"}', "answer is missing"), ('{"prompt": "", "answer": "1"}', "prompt is empty"),
    ('{"prompt": "x", "answer": null}', "answer is empty"), ('{"prompt": "x", "answer": [1]}', "answer is no text"),
    ('{"messages": "x"}', "role and content"), ('{"messages": []}', "do not end"),
    ('{"messages": [{"role": "user", "content": "x"}]}', "do not end"), ("[" * 100_000, "not valid JSON"),
])
def test_a_wrong_line_is_named_with_its_mend(line: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"prompt": "x", "answer": "1"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_items(file, "jsonl")
    assert f"{file}, line 3" in str(caught.value) and words in str(caught.value) and caught.value.hint


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"prompt": "x", "answer": "1"}\n' * 5000)
    files = {"cut.jsonl.gz": whole[:60], "no.jsonl.gz": b"plain", "latin.jsonl": b'{"prompt": "\xe9"}', "a.csv": b"x",
             "empty.jsonl": b"\n", "bad.parquet": b"PAR1"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in [*files, "missing.jsonl"]:
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            read_items(tmp_path / name, "jsonl")


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "x", "answer": "1"}')
    assert read_items(tmp_path / "a.jsonl", "jsonl")[0].prompt == "x"


def test_parquet_rows_equal_jsonl_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"prompt": f"{i}+1?", "answer": str(i + 1)} for i in range(5)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_items(tmp_path / "a.parquet", "jsonl") == read_items(tmp_path / "a.jsonl", "jsonl")
    parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "x", "answer": ""}]), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="row 1"):
        read_items(tmp_path / "b.parquet", "jsonl")


@pytest.mark.parametrize(("file", "count", "korean"), [
    ("gsm8k/test.jsonl", 1319, 0), ("gsm8k/train.jsonl.gz", 7473, 0), ("kor_gsm8k/kor_gsm8k.jsonl.gz", 1311, 1310),
    ("dmath/dmath_ko_en.jsonl", 2858, 1429),
])
def test_real_files_load_whole(file: str, count: int, korean: int, shared_data: Path) -> None:
    items = read_items(shared_data / file, "gsm8k")
    assert len(items) == count and sum(item.language == "ko" for item in items) == korean
    assert all(item.answer for item in items)
