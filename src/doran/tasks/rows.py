"""Read a user's questions: JSONL (plain or .gz) and Parquet rows, and the shapes of row that are understood.

Not here: drawing and scoring (jsonl.py). A row that cannot be used is a DataError with file, line and mend;
none is skipped in silence.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from doran.base.errors import DataError
from doran.tasks.answer import answer_part, stated
from doran.tasks.language import dominant
from doran.tasks.task import Item, Language, content_key

Row = dict[str, Any]

_SHAPES = ("prompt and answer, messages, question and answer, problem and answer or solution, "
           "or question_ko, answer_ko, question_en, answer_en")


def read_items(path: str | Path, name: str) -> list[Item]:
    """All items of a file, in order; a row with a question in both languages gives one item for each.

    Raises DataError for a missing file, an unknown ending, a broken line or row (naming it), or no rows at all.
    """
    items = [item for where, row in read_rows(Path(path)) for item in row_items(row, where, name)]
    if not items:
        raise DataError(f"{path}: no rows", hint="give a file with one JSON object a line")
    return items


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(place, row) for every row of a JSONL, CSV or Parquet file; place reads "FILE, line 7". Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="check the data path")
    readers = {".parquet": _parquet, ".csv": _csv}
    return readers.get(path.suffix, _jsonl)(path)


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    """(place, row) for every line that is not blank."""
    if path.suffixes[-1:] not in ([".jsonl"], [".gz"], [".json"]):
        raise DataError(f"{path}: unknown kind of file", hint="use .jsonl, .jsonl.gz, .csv or .parquet")
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{path}, line {number}"
                    yield where, _row(line, where)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        where = f"{path}, after line {number}"
        raise DataError(f"{where}: damaged gzip data ({error})", hint="copy the file again") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", hint="check the file and its permissions") from None


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    """(place, row) of a table whose first line names the columns; empty cells are left out, all else is text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines, restkey="", strict=True), 1):
                if "" in row:
                    raise DataError(f"{path}, row {number}: more cells than columns", hint="quote texts with commas")
                yield f"{path}, row {number}", {key: value for key, value in row.items() if value}
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text", hint="save the file as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})", hint="check the file") from None


def _row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8 text", hint="save the file as UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        place = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{where}: not valid JSON{place}", hint="write one JSON object on each line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: a JSON object was expected", hint='write {"prompt": ..., "answer": ...}')
    return row


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        hint = "pip install 'doran[data]', or use JSONL"
        raise DataError(f"{path}: reading Parquet needs pyarrow", hint=hint) from None
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})", hint="write the file again") from None
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", {key: value for key, value in row.items() if value is not None}


def row_items(row: Mapping[str, Any], where: str, name: str) -> list[Item]:
    """The items of one row. The key hashes the question in all the languages it comes in, so versions share a split."""
    if "messages" in row:
        return [_conversation(row, where, name)]
    if "prompt" in row:
        pairs = [("prompt", "answer")]
    elif "question_ko" in row and "answer_ko" in row:
        pairs = [(f"question_{lang}", f"answer_{lang}") for lang in ("ko", "en") if f"question_{lang}" in row]
    elif "problem" in row:  # MATH and AIME; a solution's last \\boxed is its answer
        pairs = [("problem", "answer" if "answer" in row else "solution")]
    elif "question" in row:
        pairs = [("question", "answer")]
    else:
        raise DataError(f"{where}: has {', '.join(map(str, row)) or 'no fields'}", hint=f"give {_SHAPES}")
    key = content_key(name, *(_text(row, question, where) for question, _ in pairs))
    return [_item(_text(row, question, where), _text(row, answer, where), key, row) for question, answer in pairs]


def _conversation(row: Mapping[str, Any], where: str, name: str) -> Item:
    """The last assistant message is the answer, all before it the question; `prompt` is the last user message."""
    messages = row["messages"]
    hint = 'write "messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]'
    if not isinstance(messages, list) or not all(isinstance(m, dict) and isinstance(m.get("content"), str)
                                                 and isinstance(m.get("role"), str) for m in messages):
        raise DataError(f"{where}: messages is no list of role and content", hint=hint)
    if [m["role"] for m in messages[-2:]] != ["user", "assistant"]:
        raise DataError(f"{where}: messages do not end with a user and an assistant turn", hint=hint)
    before, prompt, answer = messages[:-1], messages[-2]["content"], messages[-1]["content"]
    if not prompt.strip() or not answer.strip():
        raise DataError(f"{where}: the last question or answer is empty", hint="fill it in or delete the row")
    key = content_key(name, *(f"{m['role']}: {m['content']}" for m in before))
    item = _item(prompt, answer, key, row)
    return Item(prompt, item.answer, item.language, {**item.meta, "messages": before}, key)


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        blank = value is None or isinstance(value, str)
        what = "is missing" if field not in row else "is empty" if blank else "is no text"
        raise DataError(f"{where}: {field} {what}", hint=f"give it text, or delete the row; a row has {_SHAPES}")
    return value.strip()


def _item(prompt: str, answer: str, key: str, row: Mapping[str, Any]) -> Item:
    language: Language = row["language"] if row.get("language") in ("en", "ko") else dominant(prompt) or "en"
    final = final_answer(answer)
    meta: dict[str, Any] = {"solution": answer} if final != answer else {}
    if isinstance(row.get("id"), str | int):
        meta["id"] = row["id"]
    return Item(prompt, final, language, meta, key)


def final_answer(text: str) -> str:
    """What a worked solution ends in (`#### 18`, `\\boxed{18}`, `Answer: 18`, ...), else the whole text."""
    part = answer_part(text) or text
    found = stated(part)
    return found.last if found and found.last else part.strip()
