"""Running text for pretraining: one string per document, from `.txt` files and the `text` field of JSONL and Parquet.

Not here: tokens (corpus.py) and conversations (conversations.py).
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from doran.base.errors import DataError
from doran.data.rows import missing, open_text, read_rows


def read_texts(paths: Iterable[str | Path], field: str = "text", split_on: str | None = None) -> Iterator[str]:
    """Documents of all files in the order given. A `.txt` (or `.txt.gz`) is one document, or several cut at `split_on`.

    Empty documents are passed over. DataError names the file, the line and what is wrong.
    """
    for path in map(Path, paths):
        if path.name.removesuffix(".gz").endswith(".txt"):
            yield from _plain(path, split_on)
            continue
        for row in read_rows(path):
            value = row.value.get(field)
            if not isinstance(value, str):
                raise missing(row, f"no text in {field!r}", f"put the document in {field!r}, or name its field")
            if value.strip():
                yield value


def _plain(path: Path, split_on: str | None) -> Iterator[str]:
    try:
        with open_text(path) as file:
            text = file.read()
    except (UnicodeDecodeError, EOFError, OSError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})", hint="save the file as UTF-8") from None
    yield from (part for part in (text.split(split_on) if split_on else [text]) if part.strip())
