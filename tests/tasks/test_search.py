"""Searches in writing: what they say is true, they find little by themselves, and only what is right is rewritten."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

import pytest

from doran.tasks.countdown import CountdownTask, judge
from doran.tasks.expression import parse, value
from doran.tasks.search import (
    WORDS,
    SearchStyle,
    Segment,
    branches,
    checks,
    demonstration,
    number_facts,
    openings,
    readable,
    readable_steps,
    steps,
    transcript,
    verdict,
    worked,
)
from doran.tasks.task import Language

EQUATION = re.compile(r"(\d+ [-+*/] \d+) = (\d+)")
BRANCH = re.compile(r"(\d+) [-+*/] (\d+) = (\d+): ([^;<]*)")
SURE = SearchStyle(stop=0, persistent=1)  # finds whatever its branches reach
LANGUAGES = pytest.mark.parametrize("language", ["en", "ko"])


def puzzles(n: int, language: Language) -> Iterator[tuple[random.Random, list[int], int]]:
    for index, item in enumerate(CountdownTask().generate("train", n, seed=5, language=language)):
        yield random.Random(index), item.meta["nums"], item.meta["target"]


def all_true(text: str) -> bool:
    """Every equation in the text holds, and there is one."""
    found = EQUATION.findall(text)
    return bool(found) and all(value(parse(left)) == int(right) for left, right in found)


def joined(segments: Sequence[Segment]) -> str:
    return "".join(text for text, _ in segments)


def learned(segments: Sequence[Segment]) -> list[str]:
    return [text for text, learn in segments if learn]


def test_steps_are_the_sensible_ones_larger_first() -> None:
    def said(a: int, b: int, most: int = 300) -> list[str]:
        return [f"{template.format(a=a, b=b)} = {result}" for template, result in steps(a, b, most)]

    assert said(3, 12) == ["3 + 12 = 15", "3 * 12 = 36", "12 - 3 = 9", "12 / 3 = 4"]
    assert said(5, 5) == ["5 + 5 = 10", "5 * 5 = 25", "5 / 5 = 1"]  # a zero is no use
    assert said(7, 1) == ["7 + 1 = 8", "7 * 1 = 7", "7 - 1 = 6"]  # nor is a division by one
    assert said(20, 30, most=100) == ["20 + 30 = 50", "30 - 20 = 10"]


def test_branches_are_all_different_and_leave_the_third_number() -> None:
    for nums in ([3, 7, 12], [5, 5, 5], [2, 2, 8]):
        found = branches(nums, 300)
        assert len(found) == len(set(found))
        for branch in found:
            used = [int(n) for n in re.findall(r"\d+", branch.text)]
            assert sorted([*used, branch.rest]) == nums and value(parse(branch.text)) == branch.value


@LANGUAGES
def test_transcripts_say_only_true_equations_over_the_questions_numbers(language: Language) -> None:
    for rng, nums, target in puzzles(300, language):
        text = joined(transcript(rng, nums, target, language, SearchStyle())[0])
        assert text.startswith("<think>") and text.count("</think>") == 1 and all_true(text)
        found = BRANCH.findall(text)
        assert found
        for a, b, result, body in found:
            rest = list(nums)
            rest.remove(int(a))
            rest.remove(int(b))  # ValueError: a number that the question has not
            for equation, _ in EQUATION.findall(body):
                left, right = (int(n) for n in re.findall(r"\d+", equation))
                assert sorted((left, right)) == sorted((int(result), rest[0]))


@LANGUAGES
def test_demonstrations_end_at_their_only_hit_and_going_on_is_not_learned(language: Language) -> None:
    lengths = set()
    for rng, nums, _ in puzzles(200, language):
        shown = demonstration(rng, nums, language, SearchStyle(), lambda target: target % 7 != 0)
        if shown is None:
            continue
        target, segments = shown
        text = joined(segments)
        assert target % 7 != 0 and judge(nums, target, text).correct and all_true(text)
        assert text.count(f"= {target}{WORDS[language]['hit']}") == 1
        assert all("=" not in t for t, learn in segments if not learn)
        assert [learn for _, learn in segments[2:-1:2]] == [False] * (len(segments) // 2 - 1)  # going on is given
        lengths.add(len(segments) // 2)
    assert lengths >= {1, 2, 3, 4, 5}


@LANGUAGES
def test_a_noticed_hit_is_a_right_answer_and_ends_the_thought(language: Language) -> None:
    hits = 0
    for rng, nums, target in puzzles(300, language):
        segments, hit = transcript(rng, nums, target, language, SearchStyle())
        text = joined(segments)
        assert text.split("</think>")[0].endswith({"en": " yes", "ko": " 맞다"}[language]) == hit
        if hit:
            hits += 1
            assert judge(nums, target, text).correct and f"= {target} " in text
    assert hits > 10


@LANGUAGES
def test_the_default_style_finds_few_answers(language: Language) -> None:
    """Something must be left for reinforcement learning: a base model may be right in less than 35 of 100 searches."""
    right = sum(
        judge(nums, target, joined(transcript(rng, nums, target, language, SearchStyle())[0])).correct
        for rng, nums, target in puzzles(1000, language)
    )
    assert 0.05 < right / 1000 < 0.35


def test_a_search_that_never_gives_up_finds_most_answers() -> None:
    hits = [transcript(rng, nums, target, "en", SURE)[1] for rng, nums, target in puzzles(300, "en")]
    assert sum(hits) / len(hits) > 0.9


def test_the_same_seed_writes_the_same_search() -> None:
    one, two = (transcript(random.Random(3), [3, 7, 12], 45, "ko", SearchStyle()) for _ in range(2))
    assert one == two


@LANGUAGES
def test_readable_keeps_true_equations_and_ends_at_the_first_hit(language: Language) -> None:
    rewritten = 0
    for rng, nums, target in puzzles(200, language):
        segments, hit = transcript(rng, nums, target, language, SURE)
        text = joined(segments)
        said = readable(text, target, language)
        assert (said is not None) == hit
        if said is None:
            continue
        rewritten += 1
        assert all_true(said) and said.endswith(WORDS[language]["hit"])
        after_colons = [r for part in said.split("; ") for _, r in EQUATION.findall(part.split(": ")[1])]
        assert after_colons.index(str(target)) == len(after_colons) - 1
    assert rewritten > 100


def test_readable_in_words() -> None:
    thought = "try 3 + 7 = 10: 10 + 12 = 22 low, 12 - 10 = 2; try 3 * 7 = 21: 21 + 12 = 33, 21 - 12 = 9 high; try"
    english = "try 3 + 7 = 10: 10 + 12 = 22 low, 12 - 10 = 2 low; try 3 * 7 = 21: 21 + 12 = 33 yes"
    korean = "시도 3 + 7 = 10: 10 + 12 = 22 작다, 12 - 10 = 2 작다; 시도 3 * 7 = 21: 21 + 12 = 33 맞다"
    assert (readable(thought, 33, "en"), readable(thought, 33, "ko")) == (english, korean)


def test_readable_says_nothing_twice() -> None:
    miss, hit = "try 3 + 7 = 10: 10 + 12 = 22, 10 + 12 = 22", "try 3 * 7 = 21: 21 + 12 = 33"
    said = readable("; ".join([miss, miss, hit]), 33, "en")
    assert said == "try 3 + 7 = 10: 10 + 12 = 22 low; try 3 * 7 = 21: 21 + 12 = 33 yes"


@LANGUAGES
@pytest.mark.parametrize(
    "thought",
    [
        "",
        "hm, 33?",
        "try 3 * 7 = 21: 21 - 12 = 9",  # no hit
        "try 3 * 7 = 22: 21 + 12 = 33",  # a wrong first step
        "try 3 * 7 = 21: 21 + 12 = 33, 21 - 12 = 8",  # a wrong step, even after the hit
        "try 3 + 7 = 10: 10 + 12 = 23; try 3 * 7 = 21: 21 + 12 = 33",  # a wrong branch before the right one
        "try 7 / 0 = 0: 21 + 12 = 33",
    ],
)
def test_wrong_or_fruitless_thoughts_are_not_rewritten(thought: str, language: Language) -> None:
    assert readable(thought, 33, language) is None


def test_worked_steps_plainly_and_in_words() -> None:
    solution = [("3+4", 7), ("7 * 2", 14)]
    assert worked(solution, "en", in_words=False) == "3 + 4 = 7, 7 * 2 = 14"
    assert worked(solution, "en", in_words=True) == "first 3 + 4 = 7, next 7 * 2 = 14"
    assert worked(solution, "ko", in_words=True) == "먼저 3 + 4 = 7, 다음 7 * 2 = 14"


def test_readable_steps_keep_each_true_equation_once() -> None:
    assert readable_steps("3 + 4 = 7, 3 + 4 = 7, 7 * 2 = 14", "en") == "first 3 + 4 = 7, next 7 * 2 = 14"
    assert readable_steps("3 + 4 = 8, 8 * 2 = 16", "en") is None
    assert readable_steps("fourteen", "ko") is None


def test_number_facts_are_true_and_only_their_results_are_learned() -> None:
    for seed in range(100):
        said = number_facts(random.Random(seed), 13, 300)
        text = "".join(t for t, _ in said)
        assert all_true(text) and 6 <= len(EQUATION.findall(text)) <= 12
        assert learned(said) == [result for _, result in EQUATION.findall(text)]
        assert all(int(result) <= 300 for result in learned(said))


@LANGUAGES
def test_checks_compare_with_the_target_and_only_verdicts_are_learned(language: Language) -> None:
    hits = misses = 0
    for seed in range(100):
        opening, *rest = checks(random.Random(seed), 51, language, 300)
        assert opening == ("<think>", False)
        for (number, drawn), (said, judged) in zip(rest[::2], rest[1::2], strict=True):
            assert not drawn and judged and said == verdict(int(number), 51, language) + ", "
            hits, misses = hits + (number == "51"), misses + (number != "51")
    assert 0.2 < hits / (hits + misses) < 0.4


@LANGUAGES
def test_openings_use_the_questions_numbers(language: Language) -> None:
    for rng, nums, _ in puzzles(50, language):
        text = openings(rng, nums, language, 300)
        said = text.removeprefix("<think>").split("; ")
        assert text.startswith("<think>") and len(said) == len(set(said)) and 3 <= len(said) <= 9
        for opening in said:
            assert opening.startswith({"en": "try ", "ko": "시도 "}[language])
            assert sorted(int(n) for n in re.findall(r"\d+", opening)) == sorted(nums)
