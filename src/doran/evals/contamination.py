"""Were the test questions in the training data? Shared word n-grams between questions and files of text.

A question's overlap is the share of its word n-grams (13, the length GPT-3's report used; a shorter question counts as
one n-gram) that also stand in the training files. Letters and digits count, case and punctuation do not; numbers stay,
so a generated question is not "seen" because its template was. Not here: paraphrases, which no n-gram finds.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from doran.data.rows import read_rows
from doran.data.texts import read_texts
from doran.evals.metrics import share_interval
from doran.evals.run import EvalResult

N = 13
SEEN = 0.5
"""From this overlap on a question counts as seen."""

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text, compatibility forms folded."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def grams(tokens: Sequence[str], n: int) -> Iterator[str]:
    """All runs of n words; the whole of a shorter text."""
    for at in range(max(len(tokens) - n, 0) + 1):
        yield " ".join(tokens[at : at + n])


def training_texts(paths: Iterable[Path]) -> Iterator[str]:
    """Every text in .txt, .jsonl and .parquet files, whatever its field is called. DataError names a broken line."""
    for path in paths:
        if path.name.removesuffix(".gz").endswith(".txt"):
            yield from read_texts([path])
        else:
            for row in read_rows(path):
                yield " ".join(_strings(row.value))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def overlaps(prompts: Sequence[str], texts: Iterable[str], n: int = N) -> list[float]:
    """Overlap (0..1) of each prompt. Memory grows with the questions, not with the training text."""
    asked = [words(prompt) for prompt in prompts]
    wanted = [set(grams(tokens, min(n, len(tokens)))) if tokens else set() for tokens in asked]
    sizes = sorted({min(n, len(tokens)) for tokens in asked if tokens})
    everything, found = set().union(*wanted), set()
    for text in texts:
        tokens = words(text)
        for size in sizes:
            found |= {gram for gram in grams(tokens, size) if gram in everything}
    return [len(mine & found) / len(mine) if mine else 0.0 for mine in wanted]


def check(result: EvalResult, files: Sequence[Path]) -> dict[str, Any]:
    """How many questions the files hold, which, and pass@1 without them."""
    seen = overlaps([item.prompt for item in result.items], training_texts(files))
    clean = [item for item, share in zip(result.items, seen, strict=True) if share < SEEN]
    rest = [item for item, share in zip(result.items, seen, strict=True) if share >= SEEN]

    def pass_1(items: list[Any]) -> dict[str, float | None]:
        return share_interval([item.num_correct / result.k for item in items], result.k).to_dict()

    return {
        "files": [path.name for path in files], "ngram": N, "threshold": SEEN, "questions": len(result.items),
        "seen": len(rest), "mean_overlap": sum(seen) / len(seen), "pass@1_unseen": pass_1(clean),
        "pass@1_seen": pass_1(rest), "seen_keys": [f"{item.key}/{item.language}" for item in rest],
    }  # fmt: skip
