"""The filters between a teacher and its student, and the form of kept samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from doran.evals.run import chat_style
from doran.recipes.questions import Question
from doran.recipes.sampling import judge, load_rows, row, save_rows, sft_samples
from doran.tasks.task import get_task
from doran.text.tokenizer import train_bpe


@pytest.fixture
def question() -> Question:
    task = get_task("arithmetic")
    return Question(task.generate("train", 1, 0, "en")[0], task)


def test_only_right_whole_well_formed_samples_in_the_questions_language_pass(question: Question) -> None:
    right, answer = "<think>we add them</think>", question.item.answer
    for text, finish_reason, why in [
        (f"{right}{answer}", "stop", ""),
        (f"{right}{answer}", "length", "cut off"),
        (f"{answer}", "stop", "malformed"),
        (f"{right}{answer}{right}{answer}", "stop", "malformed"),
        (f"{right}100000", "stop", "wrong"),
        (f"<think>{answer}, we add them</think>none", "stop", "wrong"),  # an answer hidden in the thought
        (f"<think>먼저 더한다</think>{answer}", "stop", "other language"),
    ]:
        kept, reason = judge(question, text, finish_reason, rewrite_by_rule=False)
        assert (kept, reason) == ((text, "") if not why else (None, why))


def test_kept_samples_are_conversations_that_come_back_and_bear_loss_on_the_reply(
    question: Question, tmp_path: Path
) -> None:
    rows = [row(question, f"<think>더한다 we add</think>{question.item.answer}")]
    save_rows(tmp_path / "samples.jsonl", rows)
    assert load_rows(tmp_path / "samples.jsonl") == rows
    tokenizer = train_bpe(["we add them"] * 3, 500, whole_numbers_up_to=99)
    ((ids, mask),) = sft_samples(tokenizer, chat_style, rows)
    learned = [token for token, counts in zip(ids, mask, strict=True) if counts]
    assert tokenizer.decode(learned) == rows[0]["messages"][1]["content"] + "<|end|>"
    assert ids[: len(ids) - len(learned)] == chat_style(tokenizer, question.prompt)
