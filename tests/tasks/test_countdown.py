"""Countdown: the solver against brute force, the split, and a list of cheats the judge must reject."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path

import pytest

from doran.base.errors import ConfigError, UsageError
from doran.tasks import get_task
from doran.tasks.countdown import (
    CountdownConfig,
    all_puzzles,
    is_test,
    judge,
    prompt,
    puzzle_key,
    reachable,
    solutions,
)
from doran.tasks.expression import numbers, parse, steps, value


def brute_force(nums: tuple[int, ...]) -> set[int]:
    """Every value of every order of combining two of the numbers at a time: slow and obvious."""
    if len(nums) == 1:
        return {nums[0]}
    out = set()
    for i, j in itertools.permutations(range(len(nums)), 2):
        rest = tuple(n for k, n in enumerate(nums) if k not in (i, j))
        a, b = nums[i], nums[j]
        results = [a + b, a * b] + ([a - b] if a > b else []) + ([a // b] if a % b == 0 else [])
        for result in results:
            out |= brute_force((*rest, result))
    return out


@pytest.mark.parametrize("nums", [(3, 7, 12), (1, 1, 1), (2, 2, 8), (5, 11, 13), (1, 4, 6, 9), (2, 3, 3, 10)])
def test_reachable_targets_equal_brute_force(nums: tuple[int, ...]) -> None:
    assert reachable(nums) == brute_force(nums)


@pytest.mark.parametrize("nums", [(3, 7, 12), (2, 2, 8), (1, 5, 13), (2, 3, 4, 10)])
def test_every_solution_is_right_and_every_target_has_one(nums: tuple[int, ...]) -> None:
    for target in sorted(reachable(nums))[:40]:
        found = solutions(nums[::-1], target)
        assert found and len(found) == len(set(found))
        for text in found:
            tree = parse(text)
            assert value(tree) == target and sorted(numbers(tree)) == sorted(nums)
            assert steps(tree)[-1][1] == target  # whole numbers all the way


def test_unreachable_targets_have_no_solution() -> None:
    assert solutions([1, 1, 1], 50) == []


def test_all_puzzles_lists_each_once_and_holds_out_one_in_eight() -> None:
    puzzles = all_puzzles(CountdownConfig())
    assert len(puzzles) == len(set(puzzles)) == 1911
    assert all(10 <= target <= 99 and list(nums) == sorted(nums) for nums, target in puzzles)
    assert 0.10 < sum(is_test(*puzzle) for puzzle in puzzles) / len(puzzles) < 0.15


def test_the_key_ignores_the_order_of_the_numbers_and_nothing_else() -> None:
    assert puzzle_key([3, 7, 12], 33) == puzzle_key((12, 3, 7), 33) != puzzle_key([3, 7, 12], 34)
    assert puzzle_key([1, 23], 4) != puzzle_key([12, 3], 4)


def test_the_split_is_the_same_in_every_configuration() -> None:
    narrow = {item.key for item in get_task("countdown", max_number=6).generate("test", 10, 0)}
    wide = {item.key for seed in range(4) for item in get_task("countdown", max_number=30).generate("train", 200, seed)}
    assert not narrow & wide


def test_the_whole_held_out_split_can_be_asked_for_and_not_one_more() -> None:
    task = get_task("countdown")
    held_out = sum(is_test(*puzzle) for puzzle in all_puzzles(CountdownConfig()))
    assert len({item.key for item in task.generate("test", held_out, 0)}) == held_out
    with pytest.raises(UsageError, match=f"at most {held_out}"):
        task.generate("test", held_out + 1, 0)


def test_prompts_are_these_to_the_letter() -> None:
    assert prompt([3, 7, 12], 45, "en") == "Use 3, 7, 12 to make 45."
    assert prompt([3, 7, 12], 45, "ko") == "3, 7, 12를 써서 45를 만드세요."
    assert prompt([9, 4, 10], 31, "ko") == "9, 4, 10을 써서 31을 만드세요."
    assert prompt([9, 4, 11], 20, "ko") == "9, 4, 11을 써서 20을 만드세요."


def test_four_numbers_work_by_drawing() -> None:
    task = get_task("countdown", numbers=4, max_number=25)
    for item in task.generate("test", 10, 0):
        assert len(item.meta["nums"]) == 4 and task.score(item, item.meta["solution"]).correct


@pytest.mark.parametrize("config", [{"numbers": 1}, {"min_number": 0}, {"min_target": 50, "max_target": 40}])
def test_impossible_sizes_are_refused(config: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        get_task("countdown", **config)


def test_numbers_that_reach_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="reach no target"):
        get_task("countdown", max_number=1, min_target=90).generate("train", 1, 0)


RIGHT = [
    "(12 + 3) * 3",
    "3*(12+3)",
    "(12 + 3) * 3 = 45",
    "(12 + 3) × 3",
    "（１２＋３）×３＝４５",
    "(12 + 3) * 3.",
    "<answer>(12 + 3) * 3</answer>",
    "I found it.\n<answer> (12 + 3) * 3 = 45 </answer>",
    "\\boxed{(12+3) \\times 3}",
    "Answer: (12 + 3) * 3",
    "Let me see.\n**Answer:** $3 \\times (12 + 3)$",
    "정답: (12 + 3) * 3",
    "**(12 + 3) * 3**",
    "\\((12 + 3) \\times 3 = 45\\).",
    "`(12+3)*3`",
    "**Answer: (12 + 3) * 3**",
    "(12 + 3) * 3 = 45입니다.",
    "정답은 (12 + 3) * 3입니다.",
    "답: 3 * (12 + 3) = 45",
    "<think>3 + 3 = 6: no. <answer>1</answer></think>(12 + 3) * 3",
    "(12 + 3) * 3<｜end▁of▁sentence｜>",
    "<answer>(12+3)*3</answer> <answer>(12 + 3) * 3</answer>",
]

CHEATS = {
    "empty": "",
    "blank": " \n ",
    "only the target": "45",
    "target twice": "45 = 45",
    "power": "3 ** 3 + 12 + 6",
    "power at the end": "(12 + 3) ** 3 - 3330",
    "power tower": "9**9**9",
    "bigger tower": "9**9**9**9**9**9",
    "floor division": "(12 + 3) * 3 // 1",
    "decimal": "(12 + 3) * 3.0",
    "decimal read as two numbers": "12 * 3.3",
    "joined digits": "33 + 12",
    "number missing": "12 + 33",
    "number used twice": "(12 + 3) * 3 + 3 - 3",
    "extra number": "(12 + 3) * 3 * 1",
    "sign trick": "-(3 - 12) * 3 + 18",
    "unary plus": "+(12 + 3) * 3",
    "double minus": "(12 --3) * 3",
    "implicit product": "3(12 + 3)",
    "superscript": "3² + 12 + 3",
    "superscript alone": "³³ + 12",
    "arabic-indic digits": "(١٢ + ٣) * ٣",
    "percent": "(12 + 3) * 3%",
    "factorial": "3! * 3 + 12",
    "modulo": "(12 % 3) + 45",
    "comma": "(12, 3) * 3",
    "underscore": "1_2 * 3 + 3",
    "hex": "0xc * 3 + 3",
    "leading zero": "(12 + 03) * 3",
    "exponent": "12e0 * 3",
    "call": "sum([12, 3]) * 3",
    "import": "__import__('os').getpid()",
    "division by zero": "12 / (3 - 3)",
    "open bracket": "((12 + 3) * 3",
    "closed bracket": "(12 + 3) * 3)",
    "empty brackets": "()",
    "wrong value": "12 + 3 + 3",
    "wrong equation": "12 + 3 + 3 = 45",
    "chain": "(12 + 3) * 3 = 45 = 45",
    "reversed": "45 = (12 + 3) * 3",
    "right side is a sum": "(12 + 3) * 3 = 40 + 5",
    "hidden in the thought": "<think>(12 + 3) * 3</think>I give up",
    "thought never closed": "<think>(12 + 3) * 3",
    "second thought never closed": "<think>a</think><think>(12 + 3) * 3",
    "tag only in the thought": "<think><answer>(12 + 3) * 3</answer></think>12",
    "two answers": "<answer>12 + 3 + 3</answer><answer>(12 + 3) * 3</answer>",
    "two boxes": "\\boxed{(12 + 3) * 3} \\boxed{12 + 3 + 3}",
    "two markers": "Answer: 12 + 3 + 3\nAnswer: (12 + 3) * 3",
    "many lines": "12 + 3 + 3\n(12 + 3) * 3",
    "two in one": "(12 + 3) * 3 or 12 + 3 + 3",
    "prose around it": "Maybe (12 + 3) * 3 will do",
    "deep": "(" * 5000 + "12 + 3" + ")" * 5000 + " * 3",
    "deep within the length": "(" * 90 + "3" + ")" * 90,
    "long": "(12 + 3) * 3" + " + 0" * 500,
    "megabyte": "1" * 1_000_000,
    "megabyte of brackets": "(" * 1_000_000,
    "megabyte of tags": "<answer>" * 125_000,
    "megabyte of boxes": "\\boxed{" * 150_000,
    "megabyte of markers": "답은 " * 300_000,
    "megabyte of blanks": " " * 1_000_000 + "x",
    "megabyte of thoughts": "<think></think>" * 70_000,
    "tags closed before opened": "</answer>" + "<answer>" * 2000,
    "nul": "(12 + 3) * 3\x00",
    "several lines in brackets": "(12 +\n3)\n* 4",
}


@pytest.mark.parametrize("text", RIGHT)
def test_a_right_answer_is_read_however_it_is_written(text: str) -> None:
    score = judge([3, 3, 12], 45, text)
    assert score.correct and score.reward == 1.0, score.reason


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", CHEATS)
def test_cheats_earn_nothing(name: str) -> None:
    score = judge([3, 3, 12], 45, CHEATS[name])
    assert not score.correct and score.reward == 0.0 and score.reason


def test_the_judge_takes_fractions_on_the_way_if_the_value_is_exact() -> None:
    assert judge([8, 3, 8, 3], 24, "8 / (3 - 8 / 3)").correct
    assert value(parse("1 / 3 + 1 / 3")) == Fraction(2, 3)


def test_real_puzzles_are_solved_and_their_solutions_accepted(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "countdown/countdown3.jsonl").read_text().splitlines()]
    assert len(rows) == 143
    for row in rows:
        found = solutions(row["nums"], row["target"])
        if found:  # some need a negative or fractional step, which our generator does not
            assert judge(row["nums"], row["target"], f"<answer>{found[0]}</answer>").correct
    assert sum(bool(solutions(row["nums"], row["target"])) for row in rows) > 135
