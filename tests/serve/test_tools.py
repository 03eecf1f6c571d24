"""Calls as text are read back alike in any pieces, and the grammar lets through what the writer writes."""

from __future__ import annotations

import json

import pytest

from doran.serve.conformance import splits
from doran.serve.structure import Grammars
from doran.serve.tools import HERMES, R1, Tool, ToolFormat, ToolReader, calls_grammar, format_of, written
from doran.text.tokenizer import Tokenizer

CALLS = [
    {"function": {"name": "a", "arguments": '{"x": 1}'}},
    {"function": {"name": "b.c", "arguments": '{"y": "</tool_call> \\n```"}'}},
]
TOOLS = [Tool("a", "", {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}),
         Tool("b.c", "", {"type": "object", "properties": {"y": {"type": "string"}}, "required": ["y"]})]  # fmt: skip


def read(form: ToolFormat, pieces: tuple[str, ...]) -> tuple[str, list[list[str]]]:
    reader, text, calls = ToolReader(form), "", []
    for kind, part, call in [*(p for piece in pieces for p in reader.feed(piece)), *reader.close()]:
        if kind == "answer":
            text += part
        elif kind == "call":
            assert call == len(calls)
            calls.append([part, ""])
        else:
            calls[call][1] += part
    return text, calls


@pytest.mark.parametrize("form", [R1, HERMES])
def test_every_split_gives_the_same_calls(form: ToolFormat) -> None:
    whole = "잠깐\n" + written(CALLS, form)
    expected = "잠깐\n", [[c["function"]["name"], c["function"]["arguments"]] for c in CALLS]
    for pieces in splits(whole):
        if len(pieces) != 3 or hash(pieces[0]) % 7 == 0:  # all single cuts, some pairs
            assert read(form, pieces) == expected


@pytest.mark.parametrize("form", [R1, HERMES])
def test_text_without_calls_is_all_answer(form: ToolFormat) -> None:
    for text in ("plain", form.trigger[:-1], "a < b", ""):
        assert read(form, tuple(text)) == (text, [])


@pytest.mark.parametrize("form", [R1, HERMES])
def test_the_grammar_takes_what_is_written_and_refuses_other_names(form: ToolFormat, tokenizer: Tokenizer) -> None:
    pytest.importorskip("llguidance")
    grammars = Grammars(tokenizer, tokenizer.vocab_size, tokenizer.stop_ids)
    good = written(CALLS, form)
    for text, fits in ((good, True), (good.replace("b.c", "d"), False), (good.replace("1}", '"1"}'), False)):
        matcher = grammars.matcher(calls_grammar(grammars, form, TOOLS, parallel=True, trigger=True))
        assert matcher.take(tokenizer.encode(text)) == fits
    single = grammars.matcher(calls_grammar(grammars, form, TOOLS, parallel=False, trigger=True))
    assert single.take(tokenizer.encode(written(CALLS[:1], form))) and single.done


def test_a_template_that_teaches_hermes_gets_it() -> None:
    assert format_of("...<tool_call>...") is HERMES and format_of(None) is R1
    assert json.loads(CALLS[1]["function"]["arguments"])
