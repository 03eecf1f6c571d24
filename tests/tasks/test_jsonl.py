"""The tasks jsonl and gsm8k over files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doran.base.errors import ConfigError, UsageError
from doran.tasks import get_task


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [{"question": f"{i} 더하기 1은?" if i % 2 else f"What is {i} plus 1?", "answer": f"#### {i + 1}"}
            for i in range(200)]
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(file)


def test_one_file_is_split_by_content(data: str) -> None:
    task = get_task("gsm8k", data=data)
    train, test = task.rows("train"), task.rows("test")  # type: ignore[attr-defined]
    assert len(train) + len(test) == 200 and 10 < len(test) < 45
    assert not {item.key for item in train} & {item.key for item in test}


def test_training_goes_round_and_each_round_holds_every_row_once(data: str) -> None:
    task = get_task("jsonl", data=data, all_rows=True)
    keys = [item.key for item in task.generate("train", 400, 0)]
    assert len(set(keys[:200])) == len(set(keys[200:])) == 200 and keys[:200] != keys[200:]
    assert [item.key for item in task.generate("train", 5, 0)] == keys[:5]
    with pytest.raises(UsageError, match="at most 200"):
        task.generate("test", 201, 0)


def test_a_file_of_its_own_for_the_test_is_never_trained_on(data: str, tmp_path: Path) -> None:
    lines = Path(data).read_text().splitlines()
    (tmp_path / "test.jsonl").write_text("\n".join(lines[:50]))
    task = get_task("jsonl", data=data, test_data=str(tmp_path / "test.jsonl"))
    assert len(task.rows("test")) == 50 and len(task.rows("train")) == 150  # type: ignore[attr-defined]


def test_language_is_found_per_row(data: str) -> None:
    task = get_task("jsonl", data=data, all_rows=True)
    for language in ("en", "ko"):
        items = task.generate("test", 100, 0, language)
        assert {item.language for item in items} == {language}
    with pytest.raises(UsageError, match="at most 100"):
        task.generate("test", 101, 0, "ko")


def test_scores_by_value_with_a_thought_before(data: str) -> None:
    task = get_task("gsm8k", data=data, instructions=True)
    item = task.generate("train", 1, 0)[0]
    assert "\\boxed{}" in item.prompt
    assert task.score(item, f"<think>1</think>\\boxed{{{item.answer}.0}}").correct
    assert not task.score(item, f"<think>{item.answer}</think>\\boxed{{-1}}").correct


def test_settings_that_cannot_work_are_refused(data: str) -> None:
    for config in ({}, {"data": data, "timeout_s": 0}, {"data": data, "memory_mb": 10}, {"data": data, "workers": 0},
                   {"data": data, "scorer": "eval"}):
        with pytest.raises(ConfigError):
            get_task("jsonl", **config)


def test_a_language_without_rows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "one?", "answer": "1"}')
    with pytest.raises(UsageError, match="no train rows in language ko"):
        get_task("jsonl", data=str(tmp_path / "a.jsonl"), all_rows=True).generate("train", 1, 0, "ko")


def test_real_korean_and_english_answers_score_right(shared_data: Path) -> None:
    for name, file in (("gsm8k", "gsm8k/test.jsonl"), ("jsonl", "kor_gsm8k/kor_gsm8k.jsonl.gz"),
                       ("jsonl", "dmath/dmath_ko_en.jsonl")):
        task = get_task(name, data=str(shared_data / file), all_rows=True)
        for item in task.generate("test", 300, 0):
            assert task.score(item, f"<think>7777</think>\\boxed{{{item.answer}}}").correct, item.answer
            assert not task.score(item, f"<think>{item.answer}</think>\\boxed{{77771}}").correct
