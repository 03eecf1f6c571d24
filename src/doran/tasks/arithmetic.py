"""Multi-step arithmetic on whole numbers: "Compute (3 + 4) * 2 - 5." / "(3 + 4) * 2 - 5를 계산하세요.".

Not here: fractions and negative results. Every step stays within 0..max_value and divides without remainder.
An item's key hashes the sum with its terms and factors in sorted order, so a held-out 3 + 4 is not trained as 4 + 3.
"""

from __future__ import annotations

import random

from doran.base.config import StrictModel
from doran.base.errors import ConfigError
from doran.tasks.expression import Binary, ExpressionError, Tree, canonical, numbers, parse, render, steps
from doran.tasks.korean import josa
from doran.tasks.math import judge_number
from doran.tasks.task import (
    Item,
    Language,
    Languages,
    Score,
    Split,
    content_key,
    number_instructions,
    random_items,
)


class ArithmeticConfig(StrictModel):
    """Number of operations, largest operand, largest result of any step."""

    min_operations: int = 2
    max_operations: int = 3
    max_number: int = 20
    max_value: int = 99
    instructions: bool = False


class ArithmeticTask:
    """The task `arithmetic`."""

    name = "arithmetic"

    def __init__(self, config: ArithmeticConfig | None = None) -> None:
        self.config = config or ArithmeticConfig()
        c = self.config
        if not (1 <= c.min_operations <= c.max_operations <= 8 and 1 <= c.max_number <= c.max_value):
            raise ConfigError("arithmetic cannot make sums of this size",
                              hint="1 <= min_operations <= max_operations <= 8 and 1 <= max_number <= max_value")

    def generate(self, split: Split, n: int, seed: int, language: Languages = "mixed") -> list[Item]:
        """`n` sums; the held-out ones are all different (UsageError if there are not so many)."""
        return random_items(self.name, split, n, seed, language, lambda rng, said: self._item(self._draw(rng), said))

    def _draw(self, rng: random.Random) -> str:
        c = self.config
        for _ in range(10_000):
            operations = rng.randint(c.min_operations, c.max_operations)
            tree = _tree_with_value(rng, rng.randint(0, c.max_value), operations, c.max_value)
            if not all(1 <= number <= c.max_number for number in numbers(tree)):
                continue
            text = render(tree)  # drops brackets, so the order of the steps may change: check it as read
            try:
                if all(result <= c.max_value for _, result in steps(parse(text))):
                    return text
            except ExpressionError:
                continue
        raise ConfigError("arithmetic found no sum within max_value", hint="raise max_value or lower max_number")

    def _item(self, expression: str, language: Language) -> Item:
        tree = parse(expression)
        working = steps(tree)
        question = f"Compute {expression}." if language == "en" else f"{josa(expression, '을/를')} 계산하세요."
        prompt = question + (number_instructions(language) if self.config.instructions else "")
        meta = {"expression": expression, "steps": working}
        return Item(prompt, str(working[-1][1]), language, meta, content_key(self.name, canonical(tree)))

    def score(self, item: Item, completion_text: str) -> Score:
        """1 if the stated number is the item's, else 0."""
        return judge_number(item.answer or "", completion_text)


def solution_steps(item: Item) -> list[tuple[str, int]]:
    """The working of an item of `arithmetic` or `word_problems`, in order: [("3+4", 7), ("7*2", 14)]."""
    return [(expression, int(result)) for expression, result in item.meta["steps"]]


def _tree_with_value(rng: random.Random, value: int, operations: int, largest: int) -> Tree:
    """A random tree of that value, built from the result down so that all four operations are about equally frequent.

    No number of it exceeds `largest`, except that the leaves are whatever is left over: the caller checks those.
    """
    if operations == 0:
        return value
    op = rng.choice("+-*/")
    if op == "+":
        left = rng.randint(min(1, value), max(1, value - 1)) if value else 0
        right = value - left
    elif op == "-":
        right = rng.randint(min(1, largest - value), largest - value)
        left = value + right
    elif op == "*":
        divisors = [d for d in range(1, value + 1) if value % d == 0] or [0]
        left = rng.choice(divisors[1:-1] or divisors)  # a factor of 1 only where there is no other
        right = value // left if left else rng.randint(1, largest)
    else:
        most = largest // value if value else largest
        right = rng.randint(min(2, most), most)
        left = value * right
    on_left = rng.randrange(operations)
    return Binary(
        op,
        _tree_with_value(rng, left, on_left, largest),
        _tree_with_value(rng, right, operations - 1 - on_left, largest),
    )
