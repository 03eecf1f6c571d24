"""The chat endpoint through the real openai client."""

from __future__ import annotations

from typing import Any

import pytest

openai = pytest.importorskip("openai")

HELLO = [{"role": "user", "content": "안녕? 3 + 4"}]


@pytest.fixture(scope="module")
def client(running: Any) -> Any:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


def chat(client: Any, **given: Any) -> Any:
    extra = {k: given.pop(k) for k in list(given) if k in EXTRA}
    base = {"model": "tiny", "messages": HELLO, "max_tokens": 24, "seed": 1, "temperature": 1.0, "top_p": 1.0}
    return client.chat.completions.create(**{**base, **given}, extra_body=extra)


EXTRA = {
    "thinking_token_budget", "max_thinking_seconds", "max_seconds", "max_cost", "think_language", "answer_language",
    "cons_k", "loop_guard", "chat_template_kwargs", "top_k", "include_reasoning", "repetition_penalty",
}  # fmt: skip


def joined(stream: Any) -> dict[str, Any]:
    out: dict[str, Any] = {"content": "", "reasoning": "", "calls": [], "finish": None, "usage": None}
    for chunk in stream:
        out["usage"] = chunk.usage or out["usage"]
        for choice in chunk.choices:
            out["content"] += choice.delta.content or ""
            out["reasoning"] += getattr(choice.delta, "reasoning", None) or ""
            assert getattr(choice.delta, "reasoning", None) == getattr(choice.delta, "reasoning_content", None)
            for call in choice.delta.tool_calls or ():
                if call.id:
                    out["calls"].append([call.function.name, ""])
                out["calls"][call.index][1] += call.function.arguments
            out["finish"] = choice.finish_reason or out["finish"]
    return out


def test_streamed_and_whole_say_the_same_and_seeds_repeat(client: Any) -> None:
    whole = chat(client)
    again = chat(client)
    streamed = joined(chat(client, stream=True, stream_options={"include_usage": True}))
    assert whole.choices[0].message.content == again.choices[0].message.content == streamed["content"] != ""
    assert streamed["finish"] == whole.choices[0].finish_reason == "length"
    assert streamed["usage"].completion_tokens == whole.usage.completion_tokens == 24
    assert whole.usage.cost == pytest.approx((whole.usage.prompt_tokens + 2 * 24) / 1e6)


def test_n_choices_differ(client: Any) -> None:
    choices = chat(client, n=3).choices
    assert [c.index for c in choices] == [0, 1, 2] and len({c.message.content for c in choices}) == 3


def test_a_thought_is_closed_at_its_budget_and_an_answer_follows(client: Any, running: Any) -> None:
    opening = running.service.tokenizer.control_tokens["<think>"]
    for stream in (False, True):
        got = chat(client, thinking_token_budget=6, logit_bias={str(opening): 100}, stream=stream, max_tokens=30)
        if stream:
            text = joined(got)
        else:
            m = got.choices[0].message
            assert m.reasoning == m.reasoning_content
            assert got.usage.completion_tokens_details.reasoning_tokens <= 7 + 23
            assert got.choices[0].thought_closed_by == "tokens"
            text = {"reasoning": m.reasoning, "content": m.content}
        assert text["reasoning"] and "</think>" not in text["reasoning"] + text["content"]


def test_thinking_off_gives_no_thought(client: Any, running: Any) -> None:
    opening = running.service.tokenizer.control_tokens["<think>"]
    for off in ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}):
        message = chat(client, logit_bias={str(opening): 100}, **off).choices[0].message
        assert getattr(message, "reasoning", None) is None and "think>" not in message.content and message.content


def test_stop_strings_cut_alike_streamed_and_not(client: Any) -> None:
    free = chat(client).choices[0].message.content
    stop = free[5:8]
    whole = chat(client, stop=stop).choices[0]
    assert whole.message.content == free[: free.index(stop)] and whole.finish_reason == "stop"
    assert joined(chat(client, stop=[stop], stream=True))["content"] == whole.message.content


def test_logprobs_list_the_tokens_of_the_answer(client: Any) -> None:
    choice = chat(client, logprobs=True, top_logprobs=3).choices[0]
    content = choice.logprobs.content
    assert len(content) == 24 and all(len(t.top_logprobs) == 3 for t in content)
    assert b"".join(bytes(t.bytes) for t in content).decode("utf-8", "replace") == choice.message.content


def test_penalties_and_bias_are_honoured(client: Any) -> None:
    biased = chat(client, logit_bias={"300": 100}, frequency_penalty=0).choices[0].message.content
    freed = chat(client, logit_bias={"300": 5}, frequency_penalty=2, presence_penalty=2, temperature=0)
    assert len(set(biased)) < len(set(freed.choices[0].message.content))


SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["a", "b"],
    "properties": {
        "a": {"type": "integer", "minimum": 0, "maximum": 9},
        "b": {"type": "array", "maxItems": 2, "items": {"enum": ["x", "y"]}},
    },
}  # fmt: skip


def test_json_obeys_its_schema_even_after_a_thought(client: Any, running: Any) -> None:
    import json

    opening = running.service.tokenizer.control_tokens["<think>"]
    form = {"type": "json_schema", "json_schema": {"name": "t", "schema": SCHEMA, "strict": True}}
    for seed in range(4):
        for stream in (False, True):
            got = chat(client, response_format=form, seed=seed, stream=stream, thinking_token_budget=5,
                       logit_bias={str(opening): 50 if seed % 2 else 0}, max_tokens=60)  # fmt: skip
            text = joined(got)["content"] if stream else got.choices[0].message.content
            value = json.loads(text)
            assert set(value) == {"a", "b"} and 0 <= value["a"] <= 9 and set(value["b"]) <= {"x", "y"}


TOOLS = [
    {"type": "function", "function": {"name": name, "description": "d", "parameters": {
        "type": "object", "additionalProperties": False, "required": ["city"],
        "properties": {"city": {"enum": ["Seoul", "서울"]}}}}}
    for name in ("weather", "time_of")
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_come_out_as_openais(client: Any, stream: bool) -> None:
    import json

    named = {"type": "function", "function": {"name": "weather"}}
    for seed in range(3):
        for choice in ("required", named):
            got = chat(client, tools=TOOLS, tool_choice=choice, stream=stream, seed=seed, thinking_token_budget=4,
                       parallel_tool_calls=choice == "required", max_tokens=400)  # fmt: skip
            if stream:
                calls, finish = [tuple(c) for c in joined(got)["calls"]], None
            else:
                calls = [(c.function.name, c.function.arguments) for c in got.choices[0].message.tool_calls]
                finish = got.choices[0].finish_reason
            if choice is named:
                assert [name for name, _ in calls] == ["weather"] and finish in (None, "tool_calls")
            for name, arguments in calls[:-1] if finish == "length" else calls:
                assert name in ("weather", "time_of")
                if choice is named:
                    assert json.loads(arguments)["city"] in ("Seoul", "서울")


def test_a_conversation_with_thoughts_and_tools_is_taken_back(client: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Seoul"}'}}
    history = [
        *HELLO,
        {"role": "assistant", "content": "", "reasoning_content": "음", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "맑음 </think>"},
        {"role": "assistant", "content": "맑아요", "reasoning": "음"},
        {"role": "user", "content": [{"type": "text", "text": "고마워"}]},
    ]
    assert chat(client, messages=history, tools=TOOLS).choices[0].message.content is not None


def test_the_vote_returns_one_reply_and_says_how_it_went(client: Any) -> None:
    got = chat(client, cons_k=5, logit_bias={"300": 100}, max_tokens=4)
    assert len(got.choices) == 1 and got.vote["asked"] == 5 and 3 <= got.vote["heard"] <= 5
    assert joined(chat(client, cons_k=3, stream=True))["content"] is not None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"max_tokens": 5000}, "max_tokens"), ({"model": "gpt"}, "gpt"), ({"n": 1000}, "1000"),
        ({"top_logprobs": 2}, "logprobs"), ({"tool_choice": "auto"}, "tool_choice"),
        ({"temperature": -1}, "temperature"),
        ({"service_tier": "flex"}, "service_tier"), ({"store": True}, "store"), ({"verbosity": "low"}, "verbosity"),
        ({"thinking_token_budget": 24}, "thinking_token_budget"), ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "?"}}}}, "schema"),
        ({"stop": ""}, None), ({"max_cost": 1e-9}, "max_cost"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(client: Any, given: dict[str, Any], named: str | None) -> None:
    if named is None:
        assert chat(client, **given).choices
        return
    with pytest.raises(openai.APIStatusError) as caught:
        chat(client, **given)
    assert caught.value.status_code in (400, 404) and named in str(caught.value)


def test_languages_are_kept(client: Any) -> None:
    from doran.serve.language import leaks

    plain = [chat(client, seed=s, max_tokens=60).choices[0].message.content for s in range(6)]
    for language in ("ko", "en"):
        replies = [chat(client, seed=s, max_tokens=60, answer_language=language) for s in range(6)]
        kept = [reply.choices[0].message.content for reply in replies]
        assert sum(leaks(text, language) for text in plain) > 0 == sum(leaks(text, language) for text in kept)


def test_all_slots_come_back(running: Any) -> None:
    assert running.settled()
