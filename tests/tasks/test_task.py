"""Items, splits and get_task: what every task has in common."""

from __future__ import annotations

import pytest

from doran.base.errors import ConfigError, UsageError
from doran.tasks import Item, get_task, task_names
from doran.tasks.task import TEST_ONE_IN, content_key, draw_items, split_of

GENERATED = ["countdown", "arithmetic", "word_problems"]


@pytest.mark.parametrize("name", GENERATED)
def test_nothing_held_out_is_ever_drawn_for_training(name: str) -> None:
    task = get_task(name)
    train = {item.key for seed in range(3) for item in task.generate("train", 150, seed)}
    test = {item.key for seed in range(3) for item in task.generate("test", 50, seed)}
    assert not train & test
    assert all(split_of(key) == "train" for key in train) and all(split_of(key) == "test" for key in test)


@pytest.mark.parametrize("name", GENERATED)
def test_held_out_items_are_all_different(name: str) -> None:
    items = get_task(name).generate("test", 100, seed=5)
    assert len({item.key for item in items}) == len(items) == 100


@pytest.mark.parametrize("name", GENERATED)
def test_the_same_call_gives_the_same_items_and_seeds_are_unrelated(name: str) -> None:
    task = get_task(name)
    assert task.generate("train", 20, 7) == get_task(name).generate("train", 20, 7)
    first, second = ([item.prompt for item in task.generate("train", 60, seed, "en")] for seed in (7, 8))
    assert first[1:] != second[:-1]
    assert len(set(first) & set(second)) < 20  # seed + index would share 59


@pytest.mark.parametrize("name", GENERATED)
def test_a_shorter_draw_is_the_beginning_of_a_longer_one(name: str) -> None:
    task = get_task(name)
    for split in ("train", "test"):
        assert task.generate(split, 30, 1, "ko")[:10] == task.generate(split, 10, 1, "ko")


@pytest.mark.parametrize("name", GENERATED)
def test_both_languages_ask_the_same_questions(name: str) -> None:
    task = get_task(name)
    en, ko, mixed = (task.generate("test", 20, 3, language) for language in ("en", "ko", "mixed"))
    assert [item.key for item in en] == [item.key for item in ko] == [item.key for item in mixed]
    assert [item.answer for item in en] == [item.answer for item in ko]
    assert [item.language for item in mixed] == ["en", "ko"] * 10


@pytest.mark.parametrize("name", GENERATED)
def test_own_answers_score_full_marks_after_a_thought_and_none_inside_it(name: str) -> None:
    task = get_task(name)
    for item in task.generate("train", 40, 2) + task.generate("test", 40, 2):
        assert task.score(item, f"<think>hm</think>{item.answer}").correct
        assert task.score(item, f"<think>hm</think><answer>{item.answer}</answer><|im_end|>").reward == 1.0
        assert not task.score(item, f"<think>{item.answer}").correct
        assert not task.score(item, f"<think>{item.answer}</think>").correct
        assert not task.score(item, f"<think>{item.answer}</think>I do not know.").correct


@pytest.mark.parametrize("name", GENERATED)
def test_instructions_add_a_sentence_in_the_language_of_the_item(name: str) -> None:
    for language in ("en", "ko"):
        bare = get_task(name).generate("train", 1, 0, language)[0].prompt
        told = get_task(name, instructions=True).generate("train", 1, 0, language)[0].prompt
        assert told.startswith(bare + " ") and "<answer>" in told and "<think>" in told


def test_about_one_key_in_eight_is_held_out() -> None:
    share = sum(split_of(content_key("x", i)) == "test" for i in range(8000)) / 8000
    assert abs(share - 1 / TEST_ONE_IN) < 0.02


def test_an_unknown_task_or_setting_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean countdown"):
        get_task("countdwon")
    with pytest.raises(UsageError, match="gym:NAME"):
        get_task("gym")
    with pytest.raises(UsageError, match="no task named"):
        get_task("countdown:3")
    with pytest.raises(ConfigError, match="max_number"):
        get_task("countdown", max_nunber=3)
    assert "gsm8k" in task_names()


def test_wrong_requests_are_refused_in_one_line() -> None:
    task = get_task("countdown")
    for arguments in (("dev", 1, 0, "en"), ("train", 1, 0, "fr"), ("train", -1, 0, "en")):
        with pytest.raises(UsageError):
            task.generate(*arguments)


def test_a_split_with_too_few_items_ends_with_an_error_not_a_loop() -> None:
    def draw(index: int, attempt: int) -> Item:
        return Item("?", None, "en", key=content_key("only", attempt % 20))

    with pytest.raises(UsageError, match="different test items of 50"):
        draw_items("test", 50, draw, max_tries=100)
