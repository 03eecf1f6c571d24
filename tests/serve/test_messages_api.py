"""Anthropic's API through the real client."""

from __future__ import annotations

import json
from typing import Any

import pytest

anthropic = pytest.importorskip("anthropic")


@pytest.fixture(scope="module")
def client(running: Any) -> Any:
    return anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0)


BASE = {"model": "tiny", "messages": [{"role": "user", "content": "안녕?"}], "max_tokens": 30}


def test_whole_and_streamed_messages_are_the_same(client: Any) -> None:
    whole = client.messages.create(**BASE, extra_body={"seed": 3})
    with client.messages.stream(**BASE, extra_body={"seed": 3}) as stream:
        for _ in stream:
            pass
        final = stream.get_final_message()
    assert [b.model_dump(exclude={"id"}) for b in whole.content] == [
        b.model_dump(exclude={"id", "parsed_output"}) for b in final.content
    ]
    assert whole.stop_reason == final.stop_reason == "max_tokens"
    assert whole.usage.output_tokens == final.usage.output_tokens == 30
    assert any(b.type == "text" for b in whole.content)


def test_thinking_can_be_bounded_and_switched_off(client: Any) -> None:
    for seed in range(3):
        off = client.messages.create(**BASE, thinking={"type": "disabled"}, extra_body={"seed": seed})
        assert all(b.type != "thinking" for b in off.content)
        on = {"type": "enabled", "budget_tokens": 5}
        bounded = client.messages.create(**BASE, thinking=on, extra_body={"seed": seed})
        assert bounded.usage.output_tokens == 30


def test_a_forced_tool_comes_as_a_block_streamed_and_not(client: Any) -> None:
    schema = {"type": "object", "additionalProperties": False, "required": ["n"], "properties": {"n": {"enum": [1, 2]}}}
    tool = {"name": "pick", "input_schema": schema}
    choice = {"type": "tool", "name": "pick", "disable_parallel_tool_use": True}
    given = {**BASE, "max_tokens": 300, "tools": [tool], "tool_choice": choice}
    extra = {"seed": 1, "max_thinking_seconds": 0.001}
    whole = client.messages.create(**given, extra_body=extra)
    (call,) = [b for b in whole.content if b.type == "tool_use"]
    assert call.name == "pick" and call.input["n"] in (1, 2) and whole.stop_reason == "tool_use"
    with client.messages.stream(**given, extra_body=extra) as stream:
        final = stream.get_final_message()
    assert [b.input["n"] in (1, 2) for b in final.content if b.type == "tool_use"] == [True]


def test_earlier_blocks_are_taken_back(client: Any) -> None:
    history = [
        {"role": "user", "content": [{"type": "text", "text": "?", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "음", "signature": ""}, {"type": "text", "text": "잠깐"},
            {"type": "tool_use", "id": "t1", "name": "pick", "input": {"n": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "2"},
                                     {"type": "text", "text": "?"}]},
    ]  # fmt: skip
    assert client.messages.create(**{**BASE, "messages": history, "system": "짧게"}).content is not None


def test_refusals_have_anthropics_form(client: Any) -> None:
    with pytest.raises(anthropic.BadRequestError, match="budget"):
        client.messages.create(**BASE, thinking={"type": "enabled", "budget_tokens": 30})
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**{**BASE, "model": "claude"})
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**BASE, extra_body={"nope": 1})
    assert caught.value.body["type"] == "error" and "nope" in json.dumps(caught.value.body)


def test_stop_sequences_are_named(client: Any) -> None:
    free = client.messages.create(**BASE, thinking={"type": "disabled"}, extra_body={"seed": 5})
    text = "".join(b.text for b in free.content)
    stop = text[4:6]
    cut = client.messages.create(**BASE, thinking={"type": "disabled"}, stop_sequences=[stop], extra_body={"seed": 5})
    assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == stop
    assert "".join(b.text for b in cut.content) in text[: text.index(stop)]


def test_all_slots_come_back(running: Any) -> None:
    assert running.settled()
