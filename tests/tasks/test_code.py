"""Programs as answers: finding them, the three shapes of row, and whole published sets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from doran.base.errors import ConfigError, DataError, UsageError
from doran.sandbox.launch import SandboxError
from doran.sandbox.pool import Limits, Sandbox
from doran.tasks.code import program
from doran.tasks.task import get_task, takes_file

DOUBLE = {"prompt": "Write f that doubles.", "tests": ["assert f(2) == 4", "assert f(0) == 0"], "names": ["f"]}
ADD = {"prompt": "두 수를 더해 출력하는 프로그램을 쓰세요.", "inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7"]}


@pytest.fixture(scope="module")
def isolation() -> None:
    with Sandbox(Limits(), workers=1) as box:
        try:
            box.run("")
        except SandboxError as error:
            pytest.skip(str(error))


@pytest.mark.parametrize(("text", "found"), [
    ("```python\ndef f(): pass\n```", "def f(): pass\n"),
    ("<think>```python\nx\n```</think>Here:\n```py\ny = 1\n```\nDone.", "y = 1\n"),
    ("```python\ndef f(): 1\n```\nExample:\n```python\nprint(f())\n```", "def f(): 1\n"),
    ("```\na = 1\n```\n```\nb = 2\n```", "b = 2\n"),
    ("def f():\n    return 1", "def f():\n    return 1"),
    ("```python\ndef f(): pass", None), ("I do not know.", None), ("", None), ("<think>def f(): pass", None),
    ("```\n" * 100_001, None),
])
def test_the_program_is_found(text: str, found: str | None) -> None:
    assert program(text, ["f"]) == found


def write(tmp_path: Path, *rows: object) -> str:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.usefixtures("isolation")
def test_functions_and_printing_programs_are_scored(tmp_path: Path) -> None:
    task = get_task("code", data=write(tmp_path, DOUBLE, ADD), all_rows=True, partial=True)
    items = {item.language: item for item in task.generate("test", 2, 0)}
    assert "```python block" in items["en"].prompt and "블록" in items["ko"].prompt
    good = task.score(items["en"], "<think>hm</think>\n```python\ndef f(x): return 2 * x\n```")
    assert good.correct and good.reward == 1.0
    half = task.score(items["en"], "```python\ndef f(x): return 4\n```")
    assert not half.correct and half.reward == 0.5 and "1 of 2 tests passed; AssertionError" in half.reason
    assert task.score(items["ko"], "```python\nprint(sum(map(int, input().split())))\n```").correct
    wrong = task.score(items["ko"], "```python\nprint(3)\n```")
    assert wrong.reward == 0.5 and "wrong output" in wrong.reason
    assert "NameError" in task.score(items["ko"], "```python\nx\n```").reason
    many = task.score_many([items["en"]] * 4, ["```python\ndef f(x): return x + x\n```", "none", "", "```\nraise\n```"])
    assert [score.correct for score in many] == [True, False, False, False]
    task.close()


@pytest.mark.parametrize("row", [{}, {"prompt": "x"}, {"prompt": "", "tests": ["a"], "names": ["f"]},
                                 {"prompt": "x", "inputs": ["1"], "outputs": []},
                                 {"prompt": "x", "tests": [1], "names": ["f"]}])
def test_a_row_without_tests_is_named(tmp_path: Path, row: object) -> None:
    with pytest.raises(DataError, match="line 1: no problem with tests"):
        get_task("code", data=write(tmp_path, row)).generate("train", 1, 0)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs a file"):
        get_task("code")
    with pytest.raises(ConfigError, match="workers"):
        get_task("code", data="x", workers=0)
    assert takes_file("humaneval") and not takes_file("countdown") and not takes_file("nothing")


@pytest.mark.usefixtures("isolation")
def test_humaneval_reference_solutions_pass(shared_data: Path) -> None:
    """Every eighth, to be quick; all 164 pass."""
    file = shared_data / "humaneval/HumanEval.jsonl.gz"
    with gzip.open(file, "rt") as lines:
        solutions = {row["task_id"]: row for row in map(json.loads, lines)}
    task = get_task("humaneval", data=str(file), limits={"wall_s": 30.0})
    items = sorted(task.generate("test", 164, 0), key=lambda item: item.key)[::8]
    rows = [solutions[item.meta["id"]] for item in items]
    whole = [f"```python\n{row['prompt']}{row['canonical_solution']}\n```" for row in rows]
    assert all(score.correct for score in task.score_many(items, whole))
    nothing = [f"```python\n{row['prompt']}\n```" for row in rows]
    assert not any(score.correct for score in task.score_many(items, nothing))
    with pytest.raises(UsageError, match="for measuring"):
        task.generate("train", 1, 0)
    task.close()


@pytest.mark.usefixtures("isolation")
def test_mbpp_reference_solutions_pass(shared_data: Path) -> None:
    """Every 30th, to be quick; all 774 pass."""
    file = shared_data / "mbpp/mbpp_part.jsonl"
    solutions = {row["task_id"]: row["code"] for row in map(json.loads, file.read_text().splitlines())}
    task = get_task("mbpp", data=str(file), limits={"wall_s": 30.0})
    assert len(task.generate("test", 300, 0)) == 300
    items = sorted(task.generate("train", 474, 0), key=lambda item: item.meta["id"])
    assert all(item.meta["id"] < 11 or item.meta["id"] > 510 for item in items)
    items = [item for item in items if item.meta["id"] % 30 == 23]
    texts = [f"```python\n{solutions[item.meta['id']]}\n```" for item in items]
    assert all(score.correct for score in task.score_many(items, texts))
    assert "assert" in items[0].prompt and items[0].prompt.count("assert ") == 1
    task.close()
