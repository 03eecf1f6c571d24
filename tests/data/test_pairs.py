"""Preference pairs as people write them, and rows that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from doran.base.errors import DataError
from doran.data.pairs import Pair, read_pairs


def read(tmp_path: Path, *rows: dict[str, Any]) -> list[Pair]:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return list(read_pairs(file))


def test_text_messages_and_whole_conversations_mean_the_same(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "점심?"}]
    good, bad = ([{"role": "assistant", "content": text}] for text in ("김밥", "몰라"))
    made = read(
        tmp_path,
        {"prompt": "점심?", "chosen": "김밥", "rejected": "몰라", "source": "x"},
        {"prompt": asked, "chosen": good, "rejected": bad},
        {"chosen": asked + good, "rejected": asked + bad},
    )
    assert made == [Pair(asked, "김밥", "몰라")] * 3


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a", "chosen": "b"}, "line 1: no 'rejected'"),
        ({"prompt": "a", "chosen": "", "rejected": "c"}, "line 1: no 'chosen'"),
        ({"chosen": "b", "rejected": "c"}, "line 1: no 'prompt'"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "'prompt' is neither text nor messages"),
        ({"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": "c"}, "ends with a message of user"),
        (
            {"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "rejected": "c"},
            "differ before their last message",
        ),
    ],
)
def test_a_row_that_is_no_pair_is_named(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words.replace("(", r"\(")):
        read(tmp_path, row)


def test_a_prompt_is_held_out_whatever_is_said_to_it() -> None:
    pairs = [Pair([{"role": "user", "content": f"question {i}"}], "a", "b") for i in range(400)]
    held = [pair.held_out(0.25) for pair in pairs]
    assert held == [pair._replace(chosen="z").held_out(0.25) for pair in pairs] and 70 <= sum(held) <= 130
    assert not any(pair.held_out(0.0) for pair in pairs)
