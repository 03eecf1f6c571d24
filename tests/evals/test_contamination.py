"""Questions found again in training text, and those that only look alike."""

from __future__ import annotations

import json

from doran.evals.contamination import check, overlaps, training_texts
from doran.evals.metrics import Outcome
from doran.evals.run import EvalResult, ItemResult

LONG = "A farmer has twelve hens and sells three of them at the market on Monday for nine coins each in all"


def test_a_copied_question_is_found_whatever_its_case_and_signs():
    text = "Intro. " + LONG.upper().replace("HENS", "hens,") + "! And so on."
    assert overlaps([LONG, "질문은 하나뿐입니다"], [text]) == [1.0, 0.0]


def test_a_short_question_must_stand_there_as_a_whole():
    assert overlaps(["3 + 4 = ?", "3 + 5 = ?"], ["we know 3 + 4 = 7"]) == [1.0, 0.0]


def test_half_of_a_long_question_is_half_an_overlap():
    words = [f"w{i}" for i in range(32)]  # 20 runs of 13
    assert overlaps([" ".join(words)], [" ".join(words[:22])]) == [0.5]


def test_results_are_told_with_and_without_the_seen_questions(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": LONG}]}) + "\n", encoding="utf-8")
    items = [
        ItemResult(str(i), "en", prompt, "7", [Outcome("7", ok, 3, False, True)])
        for i, (prompt, ok) in enumerate([(LONG, True), ("Another question with other words", False)])
    ]
    found = check(EvalResult("t", 1, {}, items), [file])
    assert (found["seen"], found["questions"], found["pass@1_unseen"]["value"]) == (1, 2, 0.0)
    assert found["pass@1_seen"]["value"] == 1.0 and found["seen_keys"] == ["0/en"]
    (tmp_path / "a.txt").write_text("plain text")
    assert list(training_texts([tmp_path / "a.txt"])) == ["plain text"]
