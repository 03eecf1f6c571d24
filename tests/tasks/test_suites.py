"""Published sets: the shapes of their rows, and what may be trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doran.base.errors import DataError, UsageError
from doran.tasks.choice import published
from doran.tasks.task import get_task


def write(tmp_path: Path, *rows: object, name: str = "rows.jsonl") -> str:
    file = tmp_path / name
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def test_math_takes_the_last_box_of_the_solution(tmp_path: Path) -> None:
    row = {"problem": "What is half?", "type": "Algebra", "solution": "It is $\\boxed{\\frac{1}{2}}$."}
    task = get_task("math", data=write(tmp_path, row), all_rows=True)
    (item,) = task.generate("train", 1, 0)
    assert item.answer == "\\frac{1}{2}" and item.meta["solution"]
    assert task.score(item, "\\boxed{0.5}").correct and not task.score(item, "\\boxed{2}").correct


def test_aime_wants_a_whole_number(tmp_path: Path) -> None:
    task = get_task("aime", data=write(tmp_path, {"problem": "p", "answer": "025"}))
    (item,) = task.generate("test", 1, 0)
    for text, correct in (("\\boxed{25}", True), ("\\boxed{025}", True), ("\\boxed{26}", False),
                          ("\\boxed{50/2}", True), ("<think>\\boxed{25}", False), ("\\boxed{25} \\boxed{26}", False)):
        assert task.score(item, text).correct is correct, text
    with pytest.raises(UsageError, match="for measuring"):
        task.generate("train", 1, 0)
    for bad in ("1000", "1/2", "-3", "x"):
        with pytest.raises(DataError, match="no whole number"):
            get_task("aime", data=write(tmp_path, {"problem": "p", "answer": bad})).generate("test", 1, 0)


def test_hrm8k_rows(tmp_path: Path) -> None:
    row = {"original": "2 and 3?", "question": "2와 3을 더하면 얼마인가요?", "answer": 5.0}
    task = get_task("hrm8k", data=write(tmp_path, row))
    (item,) = task.generate("test", 1, 0)
    assert item.language == "ko"
    for text in ("정답은 5입니다.", "답: 다섯", "\\boxed{5}", "정답은 오입니다"):
        assert task.score(item, text).correct, text


def test_kmmlu_rows_count_from_one(tmp_path: Path) -> None:
    file = tmp_path / "kmmlu.csv"
    file.write_text("question,answer,A,B,C,D,Category\n수도는 어디인가?,2,부산,서울,대구,광주,지리\n", encoding="utf-8")
    task = get_task("kmmlu", data=str(file))
    (item,) = task.generate("test", 1, 0, "ko")
    assert item.answer == "B" and item.prompt.endswith("A) 부산\nB) 서울\nC) 대구\nD) 광주")
    assert task.score(item, "정답은 B입니다.").correct and not task.score(item, "정답: A").correct
    with pytest.raises(UsageError, match="for measuring"):
        task.generate("train", 1, 0)


def test_haerae_rows_carry_their_options_in_the_query(tmp_path: Path) -> None:
    query = "다음 중 옳은 것은?\n\n### 선택지:\n(A) 하나\n(B) 둘\n\n### 정답:"
    for options in (["하나", "둘"], "['하나', '둘']"):
        task = get_task("haerae", data=write(tmp_path, {"query": query, "options": options, "answer": "(B)"}))
        (item,) = task.generate("test", 1, 0)
        assert item.prompt == query and item.answer == "B"


@pytest.mark.parametrize(("row", "letter"), [
    ({"question": "q", "choices": ["a", "b"], "answer": 0}, "A"),
    ({"question": "q", "A": "a", "B": "b", "answer": 1}, "A"),
    ({"question": "q", "A": "a", "B": "b", "answer": "2"}, "B"),
    ({"question": "q", "A": "a", "B": "b", "answer": 3}, None),
    ({"question": "q", "options": ["A) a", "B) b"], "correct": "B"}, "B"),
])
def test_published_letters(row: dict[str, object], letter: str | None) -> None:
    assert published(row)[2] == letter


def test_broken_tables_are_named(tmp_path: Path) -> None:
    for text, says in (("question,answer\na,1,2\n", "more cells"), ('question,answer\n"a,1\n', "cannot be read")):
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(DataError, match=says):
            get_task("kmmlu", data=str(tmp_path / "x.csv")).generate("test", 1, 0)


def test_korean_gsm8k_and_dmath_are_read_whole(shared_data: Path) -> None:
    for name, count in (("kor_gsm8k/kor_gsm8k.jsonl.gz", 1311), ("dmath/dmath_ko_en.jsonl", 2858)):
        task = get_task("gsm8k", data=str(shared_data / name), all_rows=True)
        items = task.generate("test", count, 0)
        assert len(items) == count
        for item in items[:300]:
            assert task.score(item, f"<think>음</think>\n정답: {item.answer}").correct, item
        task.close()
