from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doran.text.parse import Parsed, StreamSplitter, opens_thought, split_thought

SAMPLES = {
    "<think>why</think>42": Parsed("why", "42", True),
    "\n<think>\nwhy\n</think>\n\n42": Parsed("\nwhy\n", "\n\n42", True),
    "no tags": Parsed("", "no tags", False),
    "": Parsed("", "", False),
    "<think>cut off": Parsed("cut off", "", False),
    "<think></think>42": Parsed("", "42", False),
    "<think> \n</think>42": Parsed(" \n", "42", False),
    "<think>why</think>": Parsed("why", "", False),
    "<think>why</think> \n": Parsed("why", " \n", False),
    "<think>a</think>1<think>b</think>2": Parsed("ab", "12", False),
    "<think>a<think>b</think>c</think>d": Parsed("a<think>b", "c</think>d", False),
    "hello <think>why</think>42": Parsed("why", "hello 42", False),
    "</think>42<think>why": Parsed("why", "</think>42", False),
    "<think>생각</think>정답은 3입니다 <thin": Parsed("생각", "정답은 3입니다 <thin", True),
}


@pytest.mark.parametrize("text", SAMPLES)
def test_split_thought_on_known_samples(text):
    want = SAMPLES[text]
    got = split_thought(text)
    if text.startswith("\n"):  # blanks before the thought are outside it, hence the answer's
        want = want._replace(answer="\n" + want.answer)
    assert got == want


def test_a_template_that_opens_the_thought_counts_as_the_opening_tag():
    assert split_thought("why</think>42", opened=True) == Parsed("why", "42", True)
    assert split_thought("cut off", opened=True) == Parsed("cut off", "", False)
    assert split_thought("<think>why</think>42", opened=True) == Parsed("<think>why", "42", False)


def test_opens_thought_reads_the_end_of_the_prompt():
    assert opens_thought("<|Assistant|><think>\n")
    assert not opens_thought("<|Assistant|>")
    assert not opens_thought("<|Assistant|><think>\n\n</think>\n\n")


def slow_split(text: str, opened: bool) -> tuple[str, str]:
    """One character at a time, looking at the whole text ahead."""
    parts, inside, at = {True: "", False: ""}, opened, 0
    while at < len(text):
        tag = "</think>" if inside else "<think>"
        if text.startswith(tag, at):
            inside, at = not inside, at + len(tag)
        else:
            parts[inside] += text[at]
            at += 1
    return parts[True], parts[False]


SCRAPS = ["<think>", "</think>", "<", "</", "think>", "<thi", "nk>", "a", "가", "\n", ">"]
pieces = st.lists(st.sampled_from(SCRAPS), max_size=12)


@given(pieces, st.booleans())
def test_split_equals_the_slow_reference(parts, opened):
    text = "".join(parts)
    reasoning, answer, well_formed = split_thought(text, opened)
    assert (reasoning, answer) == slow_split(text, opened)
    pattern = r"(?s)\s*<think>((?!</?think>).)*</think>((?!</?think>).)*"
    strict = re.fullmatch(pattern, ("<think>" if opened else "") + text) and reasoning.strip() and answer.strip()
    assert well_formed == bool(strict)


@given(pieces, st.booleans(), st.data())
def test_streamed_parts_join_to_the_split(parts, opened, data):
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    splitter, joined = StreamSplitter(opened), {"reasoning": "", "answer": ""}
    for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
        for kind, piece in splitter.feed(text[start:stop]):
            assert piece
            joined[kind] += piece
    for kind, piece in splitter.close():
        joined[kind] += piece
    reasoning, answer, _ = split_thought(text, opened)
    assert joined == {"reasoning": reasoning, "answer": answer}


@pytest.mark.parametrize("text", SAMPLES)
def test_every_two_way_cut_of_every_sample_streams_the_same(text):
    for cut in range(len(text) + 1):
        splitter = StreamSplitter()
        out = [*splitter.feed(text[:cut]), *splitter.feed(text[cut:]), *splitter.close()]
        assert "".join(p for kind, p in out if kind == "answer") == split_thought(text).answer


def test_text_that_cannot_be_a_tag_is_not_held_back():
    splitter = StreamSplitter()
    assert splitter.feed("a <b <th") == [("answer", "a <b ")]
    assert splitter.feed("e") == [("answer", "<the")]
    assert splitter.feed("<think>x</thin") == [("reasoning", "x")]
    assert splitter.feed("k>") == []
