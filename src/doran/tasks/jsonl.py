"""Tasks over a user's own questions: `jsonl`, and `gsm8k` for GSM8K's files (rows.py says which shapes of row).

Not here: reading files (rows.py), judging mathematics (math.py).
One file is split by key, one row in eight held out. A publisher's own split is kept with `test_data` (questions found
in both files are dropped from training) or with `all_rows`, where the file serves whichever split is asked for.
"""

from __future__ import annotations

from functools import lru_cache

from doran.base.config import StrictModel
from doran.base.errors import ConfigError, UsageError
from doran.base.rng import seed_for
from doran.tasks.choice import Scorer, judge_exact
from doran.tasks.math import MathVerifier
from doran.tasks.rows import read_items
from doran.tasks.task import Item, Languages, Score, Split, check_request, split_of


class JsonlConfig(StrictModel):
    """Where the questions are and how answers are judged."""

    data: str = ""
    test_data: str | None = None
    all_rows: bool = False
    scorer: Scorer = "math"
    lenient: bool = False
    timeout_s: float = 3.0
    memory_mb: int = 1024
    workers: int = 1
    instructions: bool = False


_INSTRUCTIONS = {
    "en": " Think inside <think> </think> tags, then put the final answer in \\boxed{}.",
    "ko": " <think> </think> 태그 안에서 생각한 뒤, 마지막 답을 \\boxed{} 안에 쓰세요.",
}


class JsonlTask:
    """The task `jsonl`."""

    name = "jsonl"

    def __init__(self, config: JsonlConfig) -> None:
        if not config.data and not config.test_data:
            raise ConfigError(f"task {self.name} needs a file of questions", hint="give data: FILE.jsonl")
        if config.timeout_s <= 0 or config.memory_mb < 512 or config.workers < 1:
            raise ConfigError(f"task {self.name}: impossible limits",
                              hint="timeout_s above 0, memory_mb 512 or more, workers 1 or more")
        self.config = config
        self.verifier = MathVerifier(config.timeout_s, config.memory_mb, config.workers, config.lenient)
        self._rows = lru_cache(maxsize=2)(self._read)

    def rows(self, split: Split, language: Languages = "mixed") -> list[Item]:
        """Every item of a split, in file order."""
        return [item for item in self._rows(split) if language in ("mixed", item.language)]

    def _read(self, split: Split) -> list[Item]:
        c = self.config
        if c.test_data:
            test = read_items(c.test_data, self.name)
            if split == "test":
                return test
            held_out = {item.key for item in test}
            return [item for item in read_items(c.data, self.name) if item.key not in held_out] if c.data else []
        items = read_items(c.data, self.name)
        return items if c.all_rows else [item for item in items if split_of(item.key) == split]

    def generate(self, split: Split, n: int, seed: int, language: Languages = "mixed") -> list[Item]:
        """`n` rows in an order of the seed's. Training goes round again when all are used; the held-out split does not.
        """
        check_request(split, n, language)
        rows = self.rows(split, language)
        if n and not rows:
            raise UsageError(f"{self.config.data or self.config.test_data}: no {split} rows in language {language}",
                             hint="use language mixed, all_rows: true, or another file")
        if split == "test" and n > len(rows):
            hint = f"ask for at most {len(rows)}" + ("" if self.config.all_rows else ", or set all_rows")
            file = self.config.test_data or self.config.data
            raise UsageError(f"{file}: {len(rows)} {split} rows, not {n}", hint=hint)
        out: list[Item] = []
        while len(out) < n:
            out += self._shuffled(rows, split, seed, len(out) // len(rows))
        return [self._with_instructions(item) for item in out[:n]]

    def _shuffled(self, rows: list[Item], split: Split, seed: int, epoch: int) -> list[Item]:
        return sorted(rows, key=lambda item: seed_for(self.name, split, seed, epoch, item.key, item.language))

    def _with_instructions(self, item: Item) -> Item:
        if not self.config.instructions:
            return item
        return Item(item.prompt + _INSTRUCTIONS[item.language], item.answer, item.language, item.meta, item.key)

    def score(self, item: Item, completion_text: str) -> Score:
        """1 if the stated answer is the row's, else 0."""
        gold = item.answer or ""
        if self.config.scorer == "math":
            return self.verifier.judge(gold, completion_text)
        return judge_exact(gold, completion_text, self.config.scorer)

    def close(self) -> None:
        """End the verifier's processes."""
        self.verifier.close()


class Gsm8kTask(JsonlTask):
    """The task `gsm8k`: the same, under the name people look for."""

    name = "gsm8k"
