"""Countdown: use all the given numbers once, with + - * /, to make the target. Generator, solver and judge.

Not here: worked search transcripts (search.py). A puzzle's key hashes its sorted numbers and target, so its split is
the same in every language, order of numbers, seed and configuration.
Generated puzzles have a solution whose steps are all positive whole numbers; the judge also takes others (fractions,
negative steps) as long as the value is exactly the target.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

from doran.base.config import StrictModel
from doran.base.errors import ConfigError, UsageError
from doran.base.rng import python_rng, seed_for
from doran.tasks import answer as answers
from doran.tasks.expression import Binary, ExpressionError, Tree, normalise, numbers, parse, render, value
from doran.tasks.korean import josa
from doran.tasks.task import (
    Item,
    Language,
    Languages,
    Score,
    Split,
    check_request,
    content_key,
    draw_items,
    languages,
    right,
    split_of,
    wrong,
)

Puzzle = tuple[tuple[int, ...], int]
"""(numbers in ascending order, target)"""

_ENUMERABLE = 5_000  # multisets of numbers: below this the held-out split is listed in full, not sampled

_INSTRUCTIONS = {
    "en": " Use every number exactly once with + - * / and brackets, think inside <think> </think> tags, "
    "and end with the expression inside <answer> </answer> tags.",
    "ko": " 모든 수를 한 번씩만 쓰고 + - * / 와 괄호를 사용하되, <think> </think> 태그 안에서 생각한 뒤 "
    "마지막에 식을 <answer> </answer> 태그 안에 쓰세요.",
}


class CountdownConfig(StrictModel):
    """Size of the puzzles. `instructions` adds a sentence for models that were never trained on the bare prompt."""

    numbers: int = 3
    max_number: int = 10
    min_number: int = 1
    min_target: int = 10
    max_target: int = 99
    instructions: bool = False


def puzzle_key(nums: Sequence[int], target: int) -> str:
    """sha256 of the puzzle: the order of the numbers does not matter."""
    return content_key("countdown", ",".join(map(str, sorted(nums))), target)


def is_test(nums: Sequence[int], target: int) -> bool:
    """Whether the puzzle is held out. Anything that writes training text about puzzles must ask."""
    return split_of(puzzle_key(nums, target)) == "test"


@lru_cache(maxsize=100_000)
def reachable(nums: tuple[int, ...]) -> frozenset[int]:
    """Every positive whole number that all of `nums` (ascending) can make by positive whole-number steps."""
    if len(nums) == 1:
        return frozenset(nums)
    made: set[int] = set()
    for left, right_ in _partings(nums):
        for a in reachable(left):
            for b in reachable(right_):
                low, high = (a, b) if a < b else (b, a)
                made.add(a + b)
                made.add(a * b)
                if high > low:
                    made.add(high - low)
                if high % low == 0:
                    made.add(high // low)
    return frozenset(made)


@lru_cache(maxsize=100_000)
def _partings(nums: tuple[int, ...]) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Every way to part the numbers in two, the first number always on the left."""
    rest = range(1, len(nums))
    out: dict[tuple[tuple[int, ...], tuple[int, ...]], None] = {}
    for size in range(len(nums) - 1):
        for chosen in itertools.combinations(rest, size):
            left = (nums[0], *(nums[i] for i in chosen))
            out[left, tuple(nums[i] for i in rest if i not in chosen)] = None
    return tuple(out)


def solutions(nums: Sequence[int], target: int) -> list[str]:
    """All different solutions by positive whole-number steps; a sum and its mirror image count as one."""
    return list(dict.fromkeys(render(tree) for tree in _derive(tuple(sorted(nums)), target)))


def _derive(nums: tuple[int, ...], target: int) -> Iterator[Tree]:
    if target not in reachable(nums):
        return
    if len(nums) == 1:
        yield nums[0]
        return
    for left, right_ in _partings(nums):
        others = reachable(right_)
        for a in sorted(reachable(left)):
            for op, b, swapped in _partners(a, target):
                if b in others:
                    for x, y in itertools.product(_derive(left, a), _derive(right_, b)):
                        yield Binary(op, y, x) if swapped else Binary(op, x, y)


def _partners(a: int, target: int) -> Iterator[tuple[str, int, bool]]:
    """(op, b, swapped) such that a op b, or b op a if swapped, is the target."""
    if target > a:
        yield "+", target - a, False
    if a > target:
        yield "-", a - target, False
    yield "-", a + target, True
    if target % a == 0:
        yield "*", target // a, False
    if a % target == 0:
        yield "/", a // target, False
    yield "/", a * target, True


@lru_cache(maxsize=16)
def all_puzzles(config: CountdownConfig) -> tuple[Puzzle, ...]:
    """Every puzzle of a configuration, ascending. The default's 1,911 take some hundredths of a second."""
    span = range(config.min_number, config.max_number + 1)
    return tuple(
        (nums, target)
        for nums in itertools.combinations_with_replacement(span, config.numbers)
        for target in sorted(reachable(nums))
        if config.min_target <= target <= config.max_target
    )


class CountdownTask:
    """The task `countdown`."""

    name = "countdown"

    def __init__(self, config: CountdownConfig | None = None) -> None:
        self.config = config or CountdownConfig()
        c = self.config
        if not (2 <= c.numbers <= 6 and 1 <= c.min_number <= c.max_number and 1 <= c.min_target <= c.max_target):
            raise ConfigError("countdown cannot make puzzles of this size",
                              hint="numbers 2 to 6, 1 <= min_number <= max_number, 1 <= min_target <= max_target")

    def generate(self, split: Split, n: int, seed: int, language: Languages = "mixed") -> list[Item]:
        """`n` puzzles; the held-out ones are all different (UsageError if there are not so many)."""
        check_request(split, n, language)
        each = list(languages(language, n))
        c = self.config
        if split == "test" and math.comb(c.max_number - c.min_number + c.numbers, c.numbers) <= _ENUMERABLE:
            held_out = [p for p in all_puzzles(c) if is_test(*p)]
            held_out.sort(key=lambda p: seed_for(self.name, split, seed, puzzle_key(*p)))
            if n > len(held_out):
                raise UsageError(f"countdown has only {len(held_out)} held-out puzzles of this size, not {n}",
                                 hint=f"ask for at most {len(held_out)}, or raise max_number")
            return [self._item(held_out[i], each[i], seed, split, i) for i in range(n)]

        def draw(index: int, attempt: int) -> Item:
            return self._item(self._draw(split, seed, index, attempt), each[index], seed, split, index)

        return draw_items(split, n, draw)

    def _draw(self, split: Split, seed: int, index: int, attempt: int) -> Puzzle:
        """Numbers first, evenly; then one of the targets they reach, evenly."""
        rng = python_rng(self.name, split, seed, index, attempt)
        c = self.config
        for _ in range(10_000):
            nums = tuple(sorted(rng.randint(c.min_number, c.max_number) for _ in range(c.numbers)))
            targets = sorted(t for t in reachable(nums) if c.min_target <= t <= c.max_target)
            if targets:
                return nums, rng.choice(targets)
        raise ConfigError("these numbers reach no target in the range", hint="widen min_target..max_target")

    def _item(self, puzzle: Puzzle, language: Language, seed: int, split: Split, index: int) -> Item:
        nums, target = list(puzzle[0]), puzzle[1]
        python_rng(self.name, split, seed, index, "order").shuffle(nums)
        solution = render(next(_derive(puzzle[0], target)))
        meta = {"nums": nums, "target": target, "solution": solution}
        return Item(self.prompt(nums, target, language), solution, language, meta, puzzle_key(nums, target))

    def prompt(self, nums: Sequence[int], target: int, language: Language) -> str:
        """The question as text."""
        return prompt(nums, target, language) + (_INSTRUCTIONS[language] if self.config.instructions else "")

    def score(self, item: Item, completion_text: str) -> Score:
        """1 if the stated expression uses exactly the item's numbers and is exactly the target, else 0."""
        return judge(item.meta["nums"], item.meta["target"], completion_text)


def prompt(nums: Sequence[int], target: int, language: Language) -> str:
    """The bare question: "Use 3, 7, 12 to make 45." or "3, 7, 12를 써서 45를 만드세요."."""
    listed = ", ".join(map(str, nums))
    if language == "en":
        return f"Use {listed} to make {target}."
    return f"{josa(listed, '을/를')} 써서 {josa(str(target), '을/를')} 만드세요."


def judge(nums: Sequence[int], target: int, completion_text: str) -> Score:
    """Judge a completion for a puzzle; see CountdownTask.score."""
    part = answers.answer_part(completion_text)
    if not part:
        return wrong(None, "the thought was never closed" if part is None else "no answer")
    if len(part) > answers.MAX_ANSWER_CHARS:
        return wrong(None, "answer too long")
    found = answers.stated(part)
    if found and found.conflicting:
        return wrong(found.last[: answers.MAX_SPAN_CHARS], "several different answers")
    text = (found.last if found else part)[: answers.MAX_SPAN_CHARS]
    try:
        tree = _read(text, target)
        if sorted(numbers(tree)) != sorted(nums):
            return wrong(text, "does not use exactly the given numbers")
        result = value(tree)
    except ExpressionError as error:
        return wrong(text, f"no expression: {error}")
    return right(text) if result == target else wrong(text, f"makes {result}, not {target}")


def _read(text: str, target: int) -> Tree:
    """Parse "expression" or "expression = target", with a full stop after it or not."""
    if len(text) > 2 * answers.MAX_SPAN_CHARS:
        raise ExpressionError("too long")
    left, *rights = normalise(answers.unwrap(text)).split("=")
    if len(rights) > 1 or (rights and rights[0].strip() != str(target)):
        raise ExpressionError("what follows = is not the target")
    return parse(left)
