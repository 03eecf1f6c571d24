"""Questions: drawing by share, rewards by name, and prompts that open the thought themselves."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from doran.base.errors import ConfigError
from doran.engine.request import Completion
from doran.evals.run import chat_style, plain_style
from doran.recipes.questions import Question, dialect, drawing, opens, pools, rewards
from doran.tasks.task import get_task
from doran.text.tokenizer import Tokenizer, train_bpe


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["think about 3 + 4 = 7, 생각"] * 3, 500, whole_numbers_up_to=99)


def opening(tokenizer: Tokenizer) -> Any:
    """The same tokenizer with a template that ends with `<think>` and a newline, as R1-Distill's does."""

    def encode_chat(messages: Any, add_generation_prompt: bool = True) -> list[int]:
        return [*tokenizer.encode_chat(messages), *tokenizer.encode("<think>\n", specials=True)]

    return SimpleNamespace(encode_chat=encode_chat, decode=tokenizer.decode, stop_ids=tokenizer.stop_ids)


def test_a_prompt_that_opens_the_thought_is_scored_with_it(tokenizer: Tokenizer) -> None:
    assert not opens(tokenizer, chat_style) and not opens(tokenizer, plain_style)
    assert opens(opening(tokenizer), chat_style)
    ids = [*tokenizer.encode("3 + 4</think>7", specials=True), tokenizer.stop_ids[0]]
    completion = Completion(ids, [0.0] * len(ids), "stop")
    assert dialect(opening(tokenizer), chat_style).text(completion) == "<think>3 + 4</think>7"
    assert dialect(tokenizer, chat_style).text(completion) == "3 + 4</think>7"


def test_tasks_are_drawn_by_share_and_repeat_with_the_seed() -> None:
    tasks = {name: get_task(name) for name in ("countdown", "arithmetic")}
    pool = pools(tasks, list(tasks), 20, seed=0)
    draw = drawing(pool, {"countdown": 0.8, "arithmetic": 0.2})
    drawn = [question.task.name for question in draw(random.Random(0), 500)]
    assert 0.7 < drawn.count("countdown") / 500 < 0.9
    assert [q.prompt for q in draw(random.Random(1), 9)] == [q.prompt for q in draw(random.Random(1), 9)]
    assert {q.language for q in pool["countdown"]} == {"en", "ko"}


def test_rewards_read_answer_form_and_language() -> None:
    task = get_task("arithmetic")
    item = task.generate("train", 1, 0, "en")[0]
    right = f"<think>first I add the numbers</think>{item.answer}"
    texts = [right, right, f"<think>먼저 더한다</think>{item.answer}", f"{item.answer}"]
    reasons = ["stop", "length", "stop", "stop"]
    completions = [Completion([1], [0.0], reason) for reason in reasons]  # type: ignore[arg-type]
    parts = rewards({"accuracy": 1.0, "format": 0.1, "language": 0.2})
    values = {part.name: part.fn([Question(item, task)] * 4, texts, completions) for part in parts}
    assert values["accuracy"] == [1.0, 0.0, 1.0, 1.0]  # a truncated completion has no answer
    assert values["format"] == [1.0, 1.0, 1.0, 0.0]
    assert values["language"][0] == 1.0 and values["language"][2] == 0.0


def test_an_unknown_reward_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean accuracy"):
        rewards({"acuracy": 1.0})


def test_rewards_of_one_kind_keep_their_own_names_and_weights() -> None:
    task = get_task("arithmetic")
    question = Question(task.generate("train", 1, 0, "en")[0], task)
    first, second = rewards({r"regex:\d+": 1.0, r"regex:[a-z]+": 0.5})
    assert (first.name, second.name, second.weight) == ("regex", "regex-2", 0.5)
    assert first.fn([question] * 2, ["12", "ab"], [Completion([1], [0.0], "stop")] * 2) == [1.0, 0.0]
    assert second.fn([question], ["ab"], [Completion([1], [0.0], "length")]) == [0.0]
