"""A model with a calculator: RL in an environment that answers between the model's turns, on any model folder.

    python examples/calculator_tool.py --model DIR --out runs/calculator steps=50 prompts_per_step=8

Whenever the model writes `=` behind a sum, its turn ends, the calculator writes the result, and the model goes on from
there. What the calculator wrote is read but not learnt. A tool of your own needs the same two things
(`doran.train.samples.Environment`): `stop_token_ids`, the ids that hand over to it besides the end of the text, and
`begin(item)`, a function from the text of a turn to the ids that follow it: [] for nothing, None at the end.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doran.base.config import apply_overrides, build
from doran.evals.run import chat_style, plain_style
from doran.models.weights import load_model
from doran.recipes.questions import dialect, drawing, pools, rewards
from doran.tasks.expression import ExpressionError, parse, value
from doran.tasks.task import get_task
from doran.text.tokenizer import Tokenizer
from doran.train.grpo import GrpoSettings, run_grpo

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


def main() -> None:
    """Train on Countdown with the calculator at hand."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", type=Path, required=True)
    made.add_argument("--out", type=Path, default=Path("runs/calculator"))
    made.add_argument("--chat", action="store_true", help="the model knows a chat template")
    made.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="GRPO settings, such as steps=50")
    args = made.parse_args()
    settings = build(GrpoSettings, apply_overrides({"max_turns": 64, "record": "jsonl"}, args.settings), "settings")
    model, tokenizer = load_model(args.model), Tokenizer.load(args.model)
    tasks = {"countdown": get_task("countdown", numbers=3, max_number=10, min_target=10, max_target=99)}
    run_grpo(
        model,
        dialect(tokenizer, chat_style if args.chat else plain_style),
        drawing(pools(tasks, ["countdown"], 1000, settings.seed), {"countdown": 1.0}),
        rewards({"accuracy": 1.0, "format": 0.1}),
        settings,
        args.out,
        add_files=tokenizer.save,
        environment=Calculator(tokenizer),
    )


if __name__ == "__main__":
    main()
