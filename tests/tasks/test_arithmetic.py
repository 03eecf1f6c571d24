"""Generated sums: their limits, their working, both languages."""

from __future__ import annotations

from collections import Counter

import pytest

from doran.base.errors import ConfigError
from doran.tasks import get_task
from doran.tasks.arithmetic import solution_steps
from doran.tasks.expression import numbers, parse, value


def test_answers_equal_the_value_and_every_step_stays_in_range() -> None:
    for item in get_task("arithmetic").generate("train", 300, 0):
        tree = parse(item.meta["expression"])
        working = solution_steps(item)
        assert str(value(tree)) == item.answer == str(working[-1][1])
        assert 2 <= len(working) <= 3
        assert all(0 <= result <= 99 for _, result in working)
        assert all(1 <= number <= 20 for number in numbers(tree))
        for expression, result in working:
            assert value(parse(expression)) == result


def test_all_four_operations_are_common() -> None:
    items = get_task("arithmetic").generate("train", 300, 1, "en")
    seen = Counter(op for item in items for op in "+-*/" if op in item.meta["expression"])
    assert min(seen[op] for op in "+-*/") > 40


def test_prompts_in_both_languages() -> None:
    en, ko = (get_task("arithmetic").generate("test", 30, 0, language) for language in ("en", "ko"))
    for a, b in zip(en, ko, strict=True):
        expression = a.meta["expression"]
        assert a.prompt == f"Compute {expression}."
        assert b.prompt in (f"{expression}를 계산하세요.", f"{expression}을 계산하세요.")


def test_only_the_stated_number_counts() -> None:
    task = get_task("arithmetic")
    item = next(i for i in task.generate("train", 50, 0) if i.answer == i.answer and int(i.answer or 0) > 9)
    answer = item.answer
    for text in (f"{answer}", f"Answer: {answer}", f"\\boxed{{{answer}}}", f"{item.meta['expression']} = {answer}",
                 f"정답은 {answer}입니다", f"{answer}.0", f"The answer is {answer}."):
        assert task.score(item, text).correct, text
    for text in (item.meta["expression"], f"{answer}1", f"{answer} or 3", f"<think>{answer}</think>", f"{answer}/2",
                 f"{answer}**1", f"<answer>{answer}</answer><answer>0</answer>", "9**9**9", "9" * 1_000_000):
        assert not task.score(item, text).correct, text[:50]


def test_impossible_sizes_are_refused() -> None:
    for config in ({"min_operations": 0}, {"max_operations": 1}, {"max_number": 200}):
        with pytest.raises(ConfigError):
            get_task("arithmetic", **config)
