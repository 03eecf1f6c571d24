"""Small questions: the stated answer is true, both languages are asked, the judge is exact but not petty."""

from __future__ import annotations

import re

import pytest

from doran.tasks import get_task
from doran.tasks.general import SMALL_TALK, GeneralConfig, GeneralTask
from doran.tasks.task import Item, Language, split_of

TASK = GeneralTask()


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def kinds(items: list[Item]) -> dict[str, list[Item]]:
    """Items by how many numbers their question holds: two to compare, one to judge, none in small talk."""
    names = {2: "compare", 1: "parity", 0: "talk"}
    found: dict[str, list[Item]] = {name: [] for name in names.values()}
    for item in items:
        found[names[len(numbers(item.prompt))]].append(item)
    return found


@pytest.mark.parametrize("language", ["en", "ko"])
def test_stated_answers_are_true(language: Language) -> None:
    found = kinds(TASK.generate("train", 300, seed=1, language=language))
    for item in found["compare"]:
        assert item.answer == str(max(numbers(item.prompt))) and len(set(numbers(item.prompt))) == 2
    for item in found["parity"]:
        (n,) = numbers(item.prompt)
        assert item.answer == {"en": ("even", "odd"), "ko": ("짝수", "홀수")}[language][n % 2]
    for item in found["talk"]:
        assert (item.prompt, item.meta["thought"], item.answer) in {by[language] for by in SMALL_TALK.values()}
    assert 120 < len(found["compare"]) < 180 and 75 < len(found["parity"]) < 135 and len(found["talk"]) > 20


def test_thoughts_name_the_right_numbers() -> None:
    for item in kinds(TASK.generate("train", 200, seed=2, language="mixed"))["compare"]:
        assert numbers(item.meta["thought"]) == sorted(numbers(item.prompt))


def test_mixed_asks_half_in_each_language_and_korean_particles_fit_the_number() -> None:
    items = TASK.generate("train", 100, seed=3)
    assert sum(item.language == "en" for item in items) == 50
    assert all(bool(re.search("[가-힣]", item.prompt)) == (item.language == "ko") for item in items)
    assert TASK._compare(3, 12, "ko").prompt == "3과 12 중 어느 것이 더 큽니까?"
    assert TASK._compare(12, 3, "ko").meta["thought"] == "3보다 12가 크다"
    assert TASK._parity(7, "ko").prompt == "7은 짝수입니까, 홀수입니까?"


def test_splits_share_nothing_and_small_talk_is_for_training() -> None:
    train, test = TASK.generate("train", 300, seed=4), TASK.generate("test", 60, seed=4)
    assert {i.key for i in train}.isdisjoint(i.key for i in test) and len({i.key for i in test}) == 60
    assert all(split_of(i.key) == "test" and numbers(i.prompt) for i in test)


def test_the_same_seed_asks_the_same_and_sizes_are_kept() -> None:
    assert TASK.generate("train", 30, seed=5) == TASK.generate("train", 30, seed=5)
    assert TASK.generate("train", 30, seed=5) != TASK.generate("train", 30, seed=6)
    small = GeneralTask(GeneralConfig(max_number=9)).generate("train", 100, seed=5)
    assert max(n for item in small for n in numbers(item.prompt)) <= 9


def test_the_task_is_known_by_name() -> None:
    assert isinstance(get_task("general", max_number=20), GeneralTask)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_every_stated_answer_is_judged_right(language: Language) -> None:
    for item in TASK.generate("train", 100, seed=7, language=language):
        score = TASK.score(item, f"<think>{item.meta['thought']}</think>{item.answer}")
        assert score.correct and score.reward == 1.0, item


@pytest.mark.parametrize(
    ("completion", "correct"),
    [
        ("<think>8 ends in 8</think>even", True),
        ("<think>8 ends in 8</think> Even.\n", True),
        ("<think>8 ends in 8</think>odd", False),
        ("<think>even</think>", False),
        ("<think>even", False),  # the thought was never closed
        ("<think></think>even or odd", False),
    ],
)
def test_the_judge_forgives_case_blanks_and_a_full_stop_only(completion: str, correct: bool) -> None:
    score = TASK.score(TASK._parity(8, "en"), completion)
    assert (score.correct, score.reward) == (correct, float(correct))
