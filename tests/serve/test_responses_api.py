"""OpenAI's responses through the real client."""

from __future__ import annotations

import json
from typing import Any

import pytest

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(running: Any) -> Any:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


BASE = {"model": "tiny", "input": "안녕? 3 + 4", "max_output_tokens": 30}


def test_whole_and_streamed_responses_are_the_same(client: Any) -> None:
    for seed in range(4):
        whole = client.responses.create(**BASE, extra_body={"seed": seed})
        events = list(client.responses.create(**BASE, stream=True, extra_body={"seed": seed}))
        assert [e.sequence_number for e in events] == list(range(len(events)))
        assert events[-1].type == "response.incomplete" and whole.status == "incomplete"
        assert events[-1].response.output_text == whole.output_text
        deltas = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        assert deltas == whole.output_text
        assert [i.type for i in whole.output] == [i.type for i in events[-1].response.output]


def test_thoughts_are_items_of_their_own(client: Any, running: Any) -> None:
    found = set()
    for seed in range(12):
        reply = client.responses.create(**BASE, reasoning={"effort": "low"}, extra_body={"seed": seed})
        found |= {item.type for item in reply.output}
        assert "</think>" not in reply.output_text or "<think>" not in reply.output_text
    assert "message" in found


def test_json_and_functions(client: Any) -> None:
    schema = {"type": "object", "additionalProperties": False, "required": ["a"], "properties": {"a": {"enum": [1, 2]}}}
    form = {"format": {"type": "json_schema", "name": "t", "schema": schema, "strict": True}}
    reply = client.responses.create(**BASE, text=form, reasoning={"effort": "none"}, extra_body={"seed": 1})
    assert json.loads(reply.output_text)["a"] in (1, 2)
    tool = {"type": "function", "name": "pick", "parameters": schema, "strict": True}
    given = {**BASE, "max_output_tokens": 300, "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    called = client.responses.create(**given, reasoning={"effort": "none"})
    (call,) = [i for i in called.output if i.type == "function_call"]
    assert call.name == "pick" and json.loads(call.arguments)["a"] in (1, 2)
    back = [
        {"role": "user", "content": "?"}, *[i.model_dump(exclude_none=True) for i in called.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "ok"},
    ]  # fmt: skip
    assert client.responses.create(**{**BASE, "input": back}).output is not None


def test_what_needs_memory_is_refused(client: Any) -> None:
    for given in ({"store": True}, {"previous_response_id": "resp_1"}, {"background": True}, {"truncation": "auto"}):
        with pytest.raises(openai.BadRequestError, match=next(iter(given))):
            client.responses.create(**BASE, **given)


def test_all_slots_come_back(running: Any) -> None:
    assert running.settled()
