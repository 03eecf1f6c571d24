"""Published sets under the names people look for: math, aime, hrm8k, kmmlu, haerae. You bring the file.

Not here: gsm8k (jsonl.py), humaneval and mbpp (code.py), ifeval (ifeval.py). What a row looks like is in rows.py and
choice.py; what differs is which rows may be trained on: benchmarks without a training part are held out whole.
"""

from __future__ import annotations

from doran.base.errors import DataError, UsageError
from doran.tasks.choice import ChoiceConfig, ChoiceTask
from doran.tasks.jsonl import JsonlConfig, JsonlTask
from doran.tasks.numbers import read_value
from doran.tasks.task import Item, Languages, Score, Split


def refuse_training(name: str, split: Split, all_rows: bool) -> None:
    """UsageError for the training split of a benchmark, unless the user said `all_rows`."""
    if split == "train" and not all_rows:
        raise UsageError(f"{name} is for measuring, not for training", hint="train on another set, or set all_rows")


class MathTask(JsonlTask):
    """The task `math`: rows with problem and solution (its last \\boxed is the answer) or answer. MATH and its like.

    Give the publisher's two files as data and test_data; one file alone is split by content.
    """

    name = "math"


class _Benchmark(JsonlTask):
    """Questions with answers that are mathematics, all of them held out."""

    def __init__(self, config: JsonlConfig) -> None:
        self._may_train = config.all_rows or bool(config.test_data)
        super().__init__(config if config.test_data else config.model_copy(update={"all_rows": True}))

    def generate(self, split: Split, n: int, seed: int, language: Languages = "mixed") -> list[Item]:
        """`n` rows in an order of the seed's."""
        refuse_training(self.name, split, self._may_train)
        return super().generate(split, n, seed, language)


class Hrm8kTask(_Benchmark):
    """The task `hrm8k`: HRM8K's rows, question (Korean) and answer; the English original is left out."""

    name = "hrm8k"


class AimeTask(_Benchmark):
    """The task `aime`: a list of problems whose answers are whole numbers from 0 to 999. Nothing else is right."""

    name = "aime"

    def _read(self, split: Split) -> list[Item]:
        items = super()._read(split)
        for item in items:
            if not (item.answer or "").strip().isdecimal() or int(item.answer or 0) > 999:
                raise DataError(f"aime: the answer {item.answer!r} is no whole number from 0 to 999",
                                hint="use --task math for other answers")
        return items

    def score(self, item: Item, completion_text: str) -> Score:
        """1 for the number as a whole number (025 is 25), else 0."""
        score = super().score(item, completion_text)
        value = read_value(score.parsed) if score.correct and score.parsed else None
        if score.correct and (value is None or value.denominator != 1):
            return Score(0.0, False, score.parsed, "not a whole number")
        return score


class KmmluTask(ChoiceTask):
    """The task `kmmlu`: rows with question, A, B, C, D and answer (1 to 4), CSV, JSONL or Parquet."""

    name = "kmmlu"

    def __init__(self, config: ChoiceConfig) -> None:
        self._may_train = config.all_rows
        super().__init__(config.model_copy(update={"all_rows": True}))

    def generate(self, split: Split, n: int, seed: int, language: Languages = "mixed") -> list[Item]:
        """`n` rows in an order of the seed's, each once."""
        refuse_training(self.name, split, self._may_train)
        return super().generate(split, n, seed, language)


class HaeraeTask(KmmluTask):
    """The task `haerae`: rows with query, options and answer such as "(B)"."""

    name = "haerae"
