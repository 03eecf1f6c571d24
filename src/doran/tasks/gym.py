"""Any of reasoning-gym's puzzles as a task: `gym:NAME`. English prompts only; the package is optional.

Not here: the puzzles. Two habits of the package are mended. Its items are seeded by seed + index, so neighbouring
seeds share almost all of them: here the seed is a hash. Its default scorer pays for a text that merely contains the
answer: here it sees the stated answer alone, and only full marks count unless `partial` is set.
"""

from __future__ import annotations

from typing import Any

from doran.base.config import StrictModel
from doran.base.errors import ConfigError, UsageError, suggest
from doran.base.rng import seed_for
from doran.tasks import answer as answers
from doran.tasks.task import Item, Languages, Score, Split, check_request, content_key, draw_items, wrong

FULL_MARKS = 0.99
_PAGE = 64  # items made at a time from one hashed seed


class GymConfig(StrictModel):
    """`options` go to the dataset (its difficulty); `partial` passes on marks between 0 and 1."""

    dataset: str
    options: dict[str, Any] = {}
    partial: bool = False


class GymTask:
    """One dataset of reasoning-gym."""

    def __init__(self, config: GymConfig) -> None:
        try:
            import reasoning_gym
        except ImportError:
            raise UsageError(f"task gym:{config.dataset} needs the package reasoning-gym",
                             hint="pip install 'doran[gym]'") from None
        known = reasoning_gym.factory.DATASETS
        if config.dataset not in known:
            raise UsageError(f"reasoning-gym has no dataset {config.dataset!r}", hint=suggest(config.dataset, known))
        self.config = config
        self.name = f"gym:{config.dataset}"
        self._create = reasoning_gym.create_dataset
        self._dataset = self._make(0, 1)

    def _make(self, seed: int, size: int) -> Any:
        try:
            return self._create(self.config.dataset, seed=seed, size=size, **self.config.options)
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"task {self.name}: {error}", hint="check options") from None

    def generate(self, split: Split, n: int, seed: int, language: Languages = "en") -> list[Item]:
        """`n` items; the held-out ones are all different. Language ko is refused: the puzzles are in English."""
        check_request(split, n, language)
        if language == "ko":
            raise UsageError(f"{self.name} is in English only", hint="use language en")
        pages: dict[tuple[int, int], Any] = {}

        def draw(index: int, attempt: int) -> Item:
            page = (index // _PAGE, attempt)
            if page not in pages:
                pages[page] = self._make(seed_for(self.name, split, seed, *page) % 2**31, _PAGE)
            return self._item(pages[page][index % _PAGE])

        return draw_items(split, n, draw, max_tries=500)

    def _item(self, entry: dict[str, Any]) -> Item:
        answer = entry.get("answer")
        key = content_key(self.name, entry["question"], answer)
        return Item(entry["question"], None if answer is None else str(answer), "en", {"entry": entry}, key)

    def score(self, item: Item, completion_text: str) -> Score:
        """The dataset's own mark for the stated answer, or for the answer part if none is stated."""
        part = answers.answer_part(completion_text)
        if not part or len(part) > answers.MAX_ANSWER_CHARS:
            return wrong(None, "no answer" if not part else "answer too long")
        found = answers.stated(part)
        if found and found.conflicting:
            return wrong(found.last, "several different answers")
        text = found.last if found else part
        try:
            mark = float(self._dataset.score_answer(answer=text, entry=item.meta["entry"]))
        except Exception as error:  # a scorer that trips over hostile text has not found it right
            return wrong(text, f"{self.name} could not score it ({type(error).__name__})")
        correct = mark >= FULL_MARKS
        reward = min(1.0, max(0.0, mark)) if self.config.partial else float(correct)
        return Score(reward, correct, text, f"{self.name} gives {mark:g}")
