"""What tasks over a file of rows share: which rows are training and which are held out, and drawing them by seed.

Not here: reading files (rows.py), the rows' meaning (each task).
"""

from __future__ import annotations

from collections.abc import Sequence

from doran.base.errors import UsageError
from doran.base.rng import seed_for
from doran.tasks.task import Item, Languages, Split, check_request


def draw_rows(
    name: str, file: str, rows: Sequence[Item], split: Split, n: int, seed: int, language: Languages
) -> list[Item]:
    """`n` of `rows` (all of one split) in an order of the seed's; training goes round again, the held-out does not.

    Raises UsageError for a wrong request, for no rows at all, and for more held-out rows than there are.
    """
    check_request(split, n, language)
    rows = [row for row in rows if language in ("mixed", row.language)]
    if n and not rows:
        raise UsageError(f"{file}: no {split} rows in language {language}",
                         hint="use language mixed, all_rows: true, or another file")
    if split == "test" and n > len(rows):
        raise UsageError(f"{file}: {len(rows)} {split} rows, not {n}", hint=f"ask for at most {len(rows)}")
    out: list[Item] = []
    while len(out) < n:
        epoch = len(out) // len(rows)
        out += sorted(rows, key=lambda row: seed_for(name, split, seed, epoch, row.key, row.language))
    return out[:n]
