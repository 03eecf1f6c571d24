"""The model card: readable by the Hub, honest about what is unknown."""

from __future__ import annotations

import yaml

from doran.evals.card import MARK, Card
from doran.evals.metrics import Outcome
from doran.evals.run import EvalResult, ItemResult


def result() -> EvalResult:
    items = [
        ItemResult(f"q{i}", lang, "?", "7", [Outcome("7", i < 3, 10, False, True)] * 2)
        for i in range(4)
        for lang in ("en", "ko")
    ]
    return EvalResult("countdown", 2, {}, items, {"recipe_hash": "abc"})


def test_the_front_matter_is_yaml_with_scores() -> None:
    receipts = [{"stage": "sft", "seconds": 90.0, "steps": 5, "tokens": 1000}]
    text = Card(
        name="mine", config={"model_type": "qwen2"}, license="apache-2.0", base_model="their/base",
        data=["our | FAQ"], receipts=receipts, results=[result()],
    ).render()  # fmt: skip
    front = yaml.safe_load(text.split("---\n")[1])
    front = {key: front[key] for key in ("license", "base_model", "language", "model-index")}
    assert list(front.values())[:3] == ["apache-2.0", "their/base", ["en", "ko"]]
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 75.0
    assert "| countdown, Korean | 4 | 2 | 75.0% [" in text
    assert "| sft | 1 min 30 s | 5 | 1,000 |" in text
    assert "our \\| FAQ" in text and "abc" in text and text.endswith(f"{MARK}\n")


def test_what_nobody_said_is_unknown() -> None:
    text = Card(name="x", config={}).render()
    assert "| Licence | not stated |" in text and "Not measured." in text
