"""A model with a calculator: RL in an environment that answers between the model's turns, on any model folder.

    doran rl --model DIR --task countdown --environment examples/calculator_tool.py:Calculator train.max_turns=64

Whenever the model writes `=` behind a sum, its turn ends, the calculator writes the result, and the model goes on from
there. What the calculator wrote is read but not learnt. A tool of your own needs the same two things
(`doran.train.samples.Environment`): `stop_token_ids`, the ids that hand over to it besides the end of the text, and
`begin(item)`, a function from the text of a turn to the ids that follow it: [] for nothing, None at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from doran.tasks.expression import ExpressionError, parse, value
from doran.text.tokenizer import Tokenizer

SUM = re.compile(r"([0-9()][0-9+*/() -]*)=$")


class Calculator:
    """Completes `12 * 7 =` with 84; does nothing where the sum has no whole result."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        ends_in_equals = (i for i in range(tokenizer.vocab_size) if tokenizer.decode([i]).endswith("="))
        self.stop_token_ids = tuple(ends_in_equals)

    def begin(self, item: Any) -> Callable[[str], list[int] | None]:
        """An episode needs no state here: the answer follows from the turn's text."""
        return self.answer

    def answer(self, text: str) -> list[int] | None:
        """The ids to put behind the model's turn."""
        if not text.endswith("="):
            return None  # the model is done
        found = SUM.search(text)
        try:
            result = value(parse(found[1])) if found else None
        except (ExpressionError, ZeroDivisionError):
            result = None
        if result is None or result.denominator != 1:
            return []
        return self.tokenizer.encode((" " if text.endswith(" =") else "") + str(result.numerator))
