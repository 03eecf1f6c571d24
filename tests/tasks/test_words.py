"""Word problems: the two languages tell the same problem, and the Korean is well formed."""

from __future__ import annotations

import re

import pytest

from doran.tasks import get_task
from doran.tasks.expression import parse, value
from doran.tasks.words import TEMPLATES, fill, solution_steps


def test_there_are_enough_templates_and_each_names_its_numbers_in_both_languages() -> None:
    assert len(TEMPLATES) >= 8 and len({template.id for template in TEMPLATES}) == len(TEMPLATES)
    for template in TEMPLATES:
        used = set(re.findall("[a-d]", template.sum))
        for text in (template.en, template.ko):
            assert set(re.findall(r"\{([a-d])\}", text)) == used, template.id
        fields = [set(re.findall(r"\{(name|other|things)", text)) for text in (template.en, template.ko)]
        assert fields[0] == fields[1], template.id


def test_answers_equal_the_sum_and_the_working() -> None:
    items = get_task("word_problems").generate("train", 300, 0)
    assert {item.meta["template"] for item in items} == {template.id for template in TEMPLATES}
    for item in items:
        working = solution_steps(item)
        assert item.answer == str(value(parse(item.meta["expression"]))) == str(working[-1][1])
        assert 1 <= len(working) <= 3 and all(1 <= result <= 99 for _, result in working)
        for number in re.findall(r"\d+", item.meta["expression"]):
            assert number in item.prompt


def test_max_steps_leaves_longer_templates_out() -> None:
    items = get_task("word_problems", max_steps=1).generate("train", 60, 0)
    assert all(len(solution_steps(item)) == 1 for item in items)


def test_no_field_is_left_open_and_languages_do_not_mix() -> None:
    task = get_task("word_problems")
    for item in task.generate("train", 200, 1, "ko"):
        assert not re.search(r"[A-Za-z{}|]", item.prompt), item.prompt
    for item in task.generate("train", 200, 1, "en"):
        assert item.prompt.isascii() and "{" not in item.prompt


def test_particles_follow_the_words() -> None:
    fields = {"name": "지훈", "things": "사과", "unit": "자루"}
    assert fill("{name|은/는} {things|을/를} {unit|을/를}", fields) == "지훈은 사과를 자루를"


@pytest.mark.parametrize("wrong", ["은/는", "이/가", "을/를"])
def test_no_particle_pair_is_left_undecided(wrong: str) -> None:
    assert all(wrong not in item.prompt for item in get_task("word_problems").generate("train", 100, 2, "ko"))


def test_answers_with_their_counter_are_right() -> None:
    task = get_task("word_problems")
    item = task.generate("train", 1, 0, "ko")[0]
    for text in (f"{item.answer}개", f"정답은 {item.answer}권입니다.", f"모두 {item.answer}명입니다."):
        assert task.score(item, text).correct
