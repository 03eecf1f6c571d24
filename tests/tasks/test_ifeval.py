"""Rules of IFEval, each with a reply that keeps it and one that does not; the published rows."""

# ruff: noqa: E501  (one rule, one line)

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doran.base.errors import DataError
from doran.tasks.ifeval import RULES
from doran.tasks.task import get_task

CASES = [
    ("punctuation:no_comma", {}, "a b", "a, b"),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, "one two three", "one two"),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3}, "A b. C d!", "A. B. C."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "it"},
     "a\n\n\"It is", "it\n\na"),
    ("keywords:existence", {"keywords": ["river", "festival"]}, "A River, a festival", "rivers and a festival"),
    ("keywords:forbidden_words", {"forbidden_words": ["good"]}, "goods", "Good!"),
    ("keywords:frequency", {"relation": "at least", "keyword": "a", "frequency": 2}, "a A", "a"),
    ("keywords:letter_frequency", {"let_relation": "less than", "letter": "a", "let_frequency": 2}, "a b", "aA"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* **b**", "*a* * *"),
    ("detectable_format:title", {}, "<<a song>>", "<< >>"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n- b\n* c"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}, "SECTION 1 a SECTION 2 b",
     "SECTION 1"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "no"),
    ("detectable_content:number_placeholders", {"num_placeholders": 1}, "[name]", "name"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "a\nP.S. b", "a b"),
    ("change_case:english_lowercase", {}, "abc 1", "Abc"),
    ("change_case:english_capital", {}, "ABC", "ABc"),
    ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 2}, "AB CD e", "AB cd"),
    ("combination:two_responses", {}, "a\n******\nb", "a ****** a"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "Say hi. Hi.", "Hi."),
    ("startend:quotation", {}, '"a"', '"a'),
    ("startend:end_checker", {"end_phrase": "The end."}, "So it goes. The end.", "The end. No."),
    ("language:response_language", {"language": "ko"}, "안녕하세요 여러분", "hello there"),
    ("language:response_language", {"language": "de"}, "das ist nicht der Hund", "that is not the dog"),
]


@pytest.mark.parametrize(("name", "settings", "kept", "broken"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_each_rule_sees_both(name: str, settings: dict[str, object], kept: str, broken: str) -> None:
    assert RULES[name](kept, **settings) and not RULES[name](broken, **settings)


def test_every_rule_is_tested() -> None:
    assert {case[0] for case in CASES} == set(RULES)


def test_published_rows_are_read_and_scored_on_the_answer_part(shared_data: Path) -> None:
    task = get_task("ifeval", data=str(shared_data / "ifeval/ifeval_part.jsonl"), all_rows=True, partial=True)
    items = task.generate("test", 383, 0)
    commas = next(item for item in items if [name for name, _ in item.meta["rules"]] == ["punctuation:no_comma"])
    assert task.score(commas, "<think>well, well</think>Yes.").correct
    score = task.score(commas, "Yes, sir.")
    assert not score.correct and score.reward == 0.0 and "no_comma" in score.reason


def test_unknown_rules_and_settings_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    for rule, settings, says in (("punctuation:no_coma", {}, "did you mean punctuation:no_comma"),
                                 ("punctuation:no_comma", {"x": 1}, "does not take")):
        file.write_text(json.dumps({"prompt": "p", "instruction_id_list": [rule], "kwargs": [settings]}))
        with pytest.raises(DataError, match=says):
            get_task("ifeval", data=str(file)).generate("test", 1, 0)
