"""LangChain's OpenAI chat model, and schemathesis over the OpenAPI document."""

from __future__ import annotations

import json
from typing import Any

import pytest


def test_langchain_talks_streams_binds_tools_and_structures(running: Any) -> None:
    pytest.importorskip("langchain_openai")
    from langchain_openai import ChatOpenAI

    llm = ChatOpenAI(model="tiny", base_url=f"{running.url}/v1", api_key="none", max_tokens=300, seed=1, max_retries=0)
    short = llm.bind(max_tokens=20)
    assert short.invoke("안녕?").usage_metadata["output_tokens"] == 20
    assert "".join(str(chunk.content) for chunk in short.stream("안녕?"))
    schema = {"title": "pick", "description": "d", "type": "object", "additionalProperties": False, "required": ["n"],
              "properties": {"n": {"enum": [1, 2]}}}  # fmt: skip
    bound = llm.bind_tools([schema], tool_choice="pick", parallel_tool_calls=False)
    called = bound.invoke("?", reasoning_effort="none")
    assert called.tool_calls[0]["name"] == "pick" and called.tool_calls[0]["args"]["n"] in (1, 2)
    for method in ("json_schema", "function_calling"):
        assert llm.with_structured_output(schema, method=method).invoke("?", reasoning_effort="none")["n"] in (1, 2)


def test_schemathesis_finds_no_server_error(running: Any) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    document = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    seen = set()

    for operation in document.get_all_operations():
        case_strategy = operation.ok().as_strategy()
        quiet = settings(max_examples=15, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
                         suppress_health_check=list(HealthCheck))  # fmt: skip

        @quiet
        @given(case=case_strategy)
        def no_server_error(case: Any) -> None:
            if isinstance(case.body, dict):
                case.body["model"] = "tiny"
                for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
                    if isinstance(case.body.get(name), int):
                        case.body[name] = 3
            answer = case.call(timeout=60)
            seen.add((case.path, answer.status_code))
            assert answer.status_code < 500, (case.path, case.body, answer.text)

        no_server_error()
    assert {path for path, _ in seen} >= {"/v1/chat/completions", "/v1/messages", "/v1/responses", "/tokenize"}
    assert any(path == "/v1/chat/completions" and status == 200 for path, status in seen), seen
    assert running.settled(60)


def test_the_openapi_document_is_json_and_names_every_endpoint(running: Any) -> None:
    import httpx

    document = json.loads(httpx.get(f"{running.url}/openapi.json").text)
    assert len(document["paths"]) == 10
