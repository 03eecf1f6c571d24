"""The reasoning-gym adapter, against a stand-in with the package's habits; with the package itself where installed."""

from __future__ import annotations

import importlib.util
import random
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from doran.base.errors import ConfigError, UsageError
from doran.tasks import get_task


class Sums:
    """Seeds items by seed + index and pays for containing the answer, as the real package does."""

    def __init__(self, seed: int, size: int, largest: int = 1000) -> None:
        self.seed, self.largest = seed, largest

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = random.Random(self.seed + index)
        a, b = rng.randint(0, self.largest), rng.randint(0, self.largest)
        return {"question": f"{a}+{b}?", "answer": str(a + b), "metadata": {}}

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        if answer == entry["answer"]:
            return 1.0
        return 0.5 if answer and entry["answer"] in answer else 0.0


@pytest.fixture
def gym(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_dataset(name: str, **config: Any) -> Sums:
        return Sums(**config)

    fake = SimpleNamespace(create_dataset=create_dataset, factory=SimpleNamespace(DATASETS={"sums": Sums}))
    monkeypatch.setitem(sys.modules, "reasoning_gym", fake)


@pytest.mark.usefixtures("gym")
def test_items_are_split_by_content_and_neighbouring_seeds_share_little() -> None:
    task = get_task("gym:sums")
    train, test = task.generate("train", 100, 0, "en"), task.generate("test", 30, 0, "en")
    assert not {item.key for item in train} & {item.key for item in test}
    assert len({item.key for item in test}) == 30
    other = {item.key for item in task.generate("train", 100, 1, "en")}
    assert len({item.key for item in train} & other) < 5


@pytest.mark.usefixtures("gym")
def test_only_the_stated_answer_reaches_the_scorer() -> None:
    task = get_task("gym:sums")
    item = task.generate("train", 1, 0, "en")[0]
    assert task.score(item, f"<think>.</think>{item.answer}").reward == 1.0
    for text in (f"maybe {item.answer}", f"<think>{item.answer}</think>", f"\\boxed{{{item.answer}}} \\boxed{{1}}",
    "", "9" * 10**6):
        assert task.score(item, text).reward == 0.0, text[:40]
    assert get_task("gym:sums", partial=True).score(item, f"maybe {item.answer}").reward == 0.5


@pytest.mark.usefixtures("gym")
def test_wrong_names_options_and_languages_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean sums"):
        get_task("gym:sumz")
    with pytest.raises(ConfigError, match="check options"):
        get_task("gym:sums", options={"larges": 3})
    with pytest.raises(UsageError, match="English"):
        get_task("gym:sums").generate("train", 1, 0, "ko")


def test_the_missing_package_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UsageError, match=r"doran\[gym\]"):
        get_task("gym:sums")


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed")
def test_a_real_dataset_generates_and_scores() -> None:
    task = get_task("gym:chain_sum")
    for item in task.generate("test", 5, 0, "en"):
        assert task.score(item, f"<think>.</think><answer>{item.answer}</answer>").correct
