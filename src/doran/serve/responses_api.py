"""POST /v1/responses: OpenAI's newer API, without memory. Nothing is stored: send the whole conversation each time."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from doran.serve.blocks import Block, Change, blocks, whole
from doran.serve.errors import ApiError, body_of
from doran.serve.generation import Done, Generation, Job, Service
from doran.serve.options import Wanted, check_model, make_job, thinks
from doran.serve.prompt import build_prompt
from doran.serve.schema import Body, Effort, Labels, Language, Sampling, Thinking
from doran.serve.sse import EventStream, data, while_connected
from doran.serve.tools import Tool


class Part(Body):
    """A piece of text in a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class ThoughtPart(Body):
    """A piece of an earlier thought."""

    type: Literal["reasoning_text"]
    text: str


class MessageItem(Body):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class CallItem(Body):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class OutputItem(Body):
    """What a function said."""

    type: Literal["function_call_output"]
    call_id: str
    output: str
    id: str | None = None
    status: str | None = None


class ThoughtItem(Body):
    """An earlier thought."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Any] | None = Field(None, max_length=0)
    content: list[ThoughtPart] | None = None
    status: str | None = None


class ResponseTool(Body):
    """A function the model may call."""

    type: Literal["function"]
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenFunction(Body):
    """A tool_choice by name."""

    type: Literal["function"]
    name: str


class TextFormat(Body):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextOptions(Body):
    """Of the answer."""

    format: TextFormat | None = None


class ReasoningOptions(Body):
    """Of the thought."""

    effort: Effort | None = None


class ResponsesRequest(Sampling, Labels):
    """The request."""

    model: str
    input: str | list[MessageItem | CallItem | OutputItem | ThoughtItem]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    stream: bool | None = None
    tools: list[ResponseTool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    store: Literal[False] | None = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    thinking_token_budget: int | None = Field(None, ge=0)
    max_thinking_seconds: float | None = Field(None, gt=0)
    max_seconds: float | None = Field(None, gt=0)
    think_language: Language | None = None
    answer_language: Language | None = None


def router(service: Service) -> APIRouter:
    """The endpoint, over this service."""
    routes = APIRouter()

    @routes.post("/v1/responses", tags=["OpenAI"], response_model=None)
    async def responses(request: Request, body: ResponsesRequest) -> Response:
        """A reply as items: reasoning, message, function_call."""
        shape = _Shape(service, body, await job_of(service, body))
        if body.stream:
            generation = service.run(shape.job)
            return EventStream(shape.stream(generation), request.url.path, generation.abort)
        found, done = await while_connected(request, whole(service.run(shape.job)))
        return JSONResponse(shape.response([shape.item(b) for b in found], done))

    return routes


async def job_of(service: Service, body: ResponsesRequest) -> Job:
    """The job that a request asks for. ApiError names what cannot be honoured."""
    check_model(service, body.model)
    form, choice = body.text.format if body.text else None, body.tool_choice
    if choice not in (None, "none", "auto") and not body.tools:
        raise ApiError(400, "tool_choice needs tools", "tool_choice")
    if form and (form.type == "json_schema") != (form.schema_ is not None):
        raise ApiError(400, "text.format: type json_schema and schema belong together", "text.format")
    thinking = Thinking(
        thinking_token_budget=body.thinking_token_budget, max_thinking_seconds=body.max_thinking_seconds,
        reasoning_effort=body.reasoning.effort if body.reasoning else None, max_seconds=body.max_seconds,
        think_language=body.think_language, answer_language=body.answer_language,
    )  # fmt: skip
    tools = [Tool(t.name, t.description or "", t.parameters or {}) for t in body.tools or ()]
    wanted = Wanted(
        body.max_output_tokens,
        schema=form.schema_ if form else None, json_object=form is not None and form.type == "json_object", tools=tools,
        tool_choice=f"={choice.name}" if isinstance(choice, ChosenFunction) else choice or "auto",
        parallel_calls=body.parallel_tool_calls is not False,
    )  # fmt: skip
    shown = () if choice == "none" else tools
    prompt = build_prompt(service.tokenizer, conversation(body), shown, thinks(thinking, None))
    return await make_job(service, prompt, body, wanted, thinking)


def conversation(body: ResponsesRequest) -> list[dict[str, Any]]:
    """The items as messages in the chat form; thought, text and calls of one turn come together."""
    out: list[dict[str, Any]] = [{"role": "system", "content": body.instructions}] if body.instructions else []
    if isinstance(body.input, str):
        return [*out, {"role": "user", "content": body.input}]
    for item in body.input:
        if isinstance(item, OutputItem):
            out.append({"role": "tool", "tool_call_id": item.call_id, "content": item.output})
        elif isinstance(item, MessageItem) and item.role != "assistant":
            out.append({"role": item.role, "content": _text(item)})
        else:
            if not out or out[-1]["role"] != "assistant":
                out.append({"role": "assistant", "content": ""})
            _add(out[-1], item)
    if not out:
        raise ApiError(400, "input is empty", "input")
    return out


def _add(message: dict[str, Any], item: MessageItem | CallItem | ThoughtItem) -> None:
    if isinstance(item, MessageItem):
        message["content"] += _text(item)
    elif isinstance(item, ThoughtItem):
        message["reasoning_content"] = "".join(part.text for part in item.content or ())
    else:
        function = {"name": item.name, "arguments": item.arguments}
        message.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})


def _text(item: MessageItem) -> str:
    return item.content if isinstance(item.content, str) else "".join(part.text for part in item.content)


class _Shape:
    """Forms the answers to one request."""

    def __init__(self, service: Service, body: ResponsesRequest, job: Job) -> None:
        self.service, self.body, self.job = service, body, job
        self.id, self.created, self._sequence = f"resp_{secrets.token_hex(16)}", time.time(), 0

    def response(self, output: list[dict[str, Any]], done: Done | None, error: Any = None) -> dict[str, Any]:
        """The response object; `done=None`: it is still being made."""
        b, cut = self.body, done is not None and done.ending in ("length", "loop", "seconds")
        status = "failed" if error else "in_progress" if done is None else "incomplete" if cut else "completed"
        return {
            "id": self.id, "object": "response", "created_at": self.created, "model": self.service.settings.name,
            "status": status, "error": error, "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": output, "instructions": b.instructions, "max_output_tokens": b.max_output_tokens,
            "parallel_tool_calls": b.parallel_tool_calls is not False, "previous_response_id": None, "store": False,
            "temperature": self.job.params.temperature, "top_p": self.job.params.top_p, "truncation": "disabled",
            "tool_choice": b.tool_choice if isinstance(b.tool_choice, str) else "auto",
            "tools": [t.model_dump() for t in b.tools or ()], "metadata": b.metadata or {}, "user": b.user,
            "text": {"format": {"type": "text"}}, "reasoning": {"effort": None, "summary": None},
            "usage": self._usage(done) if done else None,
        }  # fmt: skip

    def _usage(self, done: Done) -> dict[str, Any]:
        prompt = len(self.job.prompt_ids)
        return {
            "input_tokens": prompt, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": done.tokens, "output_tokens_details": {"reasoning_tokens": done.reasoning_tokens},
            "total_tokens": prompt + done.tokens,
        }  # fmt: skip

    def item(self, block: Block, status: str = "completed") -> dict[str, Any]:
        """A block as an item; in progress it is still empty."""
        begun = status == "in_progress"
        name = f"{self.id[5:21]}{block.index}"
        if block.kind == "reasoning":
            content = [] if begun else [{"type": "reasoning_text", "text": block.text}]
            return {"id": f"rs_{name}", "type": "reasoning", "summary": [], "content": content, "status": status}
        if block.kind == "answer":
            parts = [] if begun else [self._part(block)]
            return {"id": f"msg_{name}", "type": "message", "role": "assistant", "status": status, "content": parts}
        return {
            "id": f"fc_{name}", "type": "function_call", "call_id": f"call_{block.id}",
            "name": block.name, "arguments": "" if begun else block.text, "status": status,
        }  # fmt: skip

    def _part(self, block: Block, empty: bool = False) -> dict[str, Any]:
        text = "" if empty else block.text
        if block.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    async def stream(self, generation: Generation) -> AsyncIterator[bytes]:
        """The API's events."""
        generation.interval = self.service.settings.stream_interval
        output: list[dict[str, Any]] = []
        yield self._event("response.created", response=self.response([], None))
        yield self._event("response.in_progress", response=self.response([], None))
        try:
            async for change in blocks(generation):
                if isinstance(change, Done):
                    response = self.response(output, change)
                    yield self._event(f"response.{response['status']}", response=response)
                    return
                for event in self._changed(change):
                    yield event
                if change.what == "stop":
                    output.append(self.item(change.block))
        except Exception as error:
            shown = {"code": "server_error", "message": body_of(error)["error"]["message"]}
            yield self._event("response.failed", response=self.response(output, None, shown))

    def _changed(self, change: Change) -> list[bytes]:
        block = change.block
        at = {"item_id": self.item(block)["id"], "output_index": block.index}
        part = {**at, "content_index": 0}
        stem = {"reasoning": "reasoning_text", "answer": "output_text", "call": "function_call_arguments"}[block.kind]
        extra: dict[str, Any] = {"logprobs": []} if block.kind == "answer" else {}
        if change.what == "start":
            item = self.item(block, "in_progress")
            events = [self._event("response.output_item.added", output_index=block.index, item=item)]
            if block.kind != "call":
                events.append(self._event("response.content_part.added", **part, part=self._part(block, empty=True)))
            return events
        if change.what == "delta":
            where = at if block.kind == "call" else part
            return [self._event(f"response.{stem}.delta", **where, delta=change.text, **extra)]
        events = []
        if block.kind == "call":
            events.append(self._event(f"response.{stem}.done", **at, arguments=block.text, name=block.name))
        else:
            events.append(self._event(f"response.{stem}.done", **part, text=block.text, **extra))
            events.append(self._event("response.content_part.done", **part, part=self._part(block)))
        return [*events, self._event("response.output_item.done", output_index=block.index, item=self.item(block))]

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        return data({"type": kind, "sequence_number": self._sequence - 1, **fields}, kind)
