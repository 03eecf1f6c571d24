"""Rows of a user's file: JSON Lines (`.jsonl`, `.jsonl.gz`) or Parquet, each with the place it came from.

What a row must hold is for the reader to say (conversations.py, texts.py). Nothing is skipped in silence.
"""
from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from doran.base.errors import DataError, UsageError


class Row(NamedTuple):
    """One row and, for messages, its place: `data.jsonl, line 3`."""

    where: str
    value: dict[str, Any]


def read_rows(path: str | Path, rename: Mapping[str, str] | None = None) -> Iterator[Row]:
    """Rows of a `.jsonl`, `.jsonl.gz` or `.parquet` file in their order; `rename` maps the file's field names to ours.

    DataError names the file and the line that is not a JSON object; blank lines are passed over.
    """
    path = Path(path)
    rows = _parquet(path) if path.suffix == ".parquet" else _json_lines(path)
    for row in rows:
        yield row._replace(value={(rename or {}).get(key, key): value for key, value in row.value.items()})


def open_text(path: Path) -> IO[str]:
    """A text file, unpacked on the way where it ends in `.gz`. DataError where it does not exist."""
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="check the path")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return open(path, encoding="utf-8-sig")  # -sig: files from Windows begin with a byte order mark


def _json_lines(path: Path) -> Iterator[Row]:
    if not path.name.removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        raise DataError(f"{path}: not a known kind of file", hint="give a .jsonl, .jsonl.gz or .parquet file")
    number = 0
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Row(f"{path}, line {number}", _object(line, f"{path}, line {number}"))
    except UnicodeDecodeError:
        raise DataError(f"{path}, after line {number}: not UTF-8", hint="save the file as UTF-8") from None
    except (EOFError, OSError) as error:
        raise DataError(f"{path}, after line {number}: cannot be read ({error})", hint="copy the file again") from None


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg}, character {error.pos + 1})", hint="mend that line") from None
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise DataError(f"{where}: a {kind}, not an object", hint='write {"prompt": ..., "answer": ...}')
    return value


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UsageError(f"{path}: reading Parquet needs pyarrow", hint='pip install "doran[data]"') from None
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="check the path")
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                yield Row(f"{path}, row {number}", value)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}, after row {number}: not readable Parquet ({error})", hint="write it again") from None


def missing(row: Row, what: str, hint: str) -> DataError:
    """The error for a row without what is needed; it names what the row does hold."""
    held = ", ".join(sorted(row.value)) or "nothing"
    return DataError(f"{row.where}: {what}; the row holds {held}", hint=hint)
