"""POST /v1/messages: Anthropic's API. Its thinking blocks are the thought; the signature is empty and not checked."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from doran.serve.blocks import Block, blocks, whole
from doran.serve.chat_api import usage_of
from doran.serve.errors import ApiError
from doran.serve.generation import Done, Generation, Job, Service
from doran.serve.options import Wanted, check_model, make_job
from doran.serve.prompt import build_prompt
from doran.serve.schema import Body, Language, Sampling, Thinking
from doran.serve.sse import EventStream, data, while_connected
from doran.serve.tools import Tool

CacheHint = dict[str, str]  # says what to keep for later; it changes no answer


class TextBlock(Body):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheHint | None = None
    citations: None = None


class ThinkingBlock(Body):
    """An earlier thought."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class ToolUseBlock(Body):
    """An earlier call."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheHint | None = None


class ToolResultBlock(Body):
    """What a tool said."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheHint | None = None


AnyBlock = Annotated[TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class Turn(Body):
    """One message."""

    role: Literal["user", "assistant"]
    content: str | list[AnyBlock]


class MessageTool(Body):
    """A tool of the caller's own."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    cache_control: CacheHint | None = None


class ToolChoice(Body):
    """Which tools may or must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingSwitch(Body):
    """Anthropic's thinking option; without it the model thinks as it always does."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1)


class Who(Body):
    """Says who asks; does nothing else."""

    user_id: str | None = None


class MessagesRequest(Sampling):
    """The request."""

    model: str
    max_tokens: int = Field(ge=1)
    messages: list[Turn] = Field(min_length=1)
    system: str | list[TextBlock] | None = None
    stop_sequences: list[Annotated[str, Field(min_length=1, max_length=256)]] | None = Field(None, max_length=16)
    stream: bool | None = None
    tools: list[MessageTool] | None = Field(None, max_length=128)
    tool_choice: ToolChoice | None = None
    thinking: ThinkingSwitch | None = None
    metadata: Who | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    max_thinking_seconds: float | None = Field(None, gt=0)
    max_seconds: float | None = Field(None, gt=0)
    think_language: Language | None = None
    answer_language: Language | None = None


def router(service: Service) -> APIRouter:
    """The endpoint, over this service."""
    routes = APIRouter()

    @routes.post("/v1/messages", tags=["Anthropic"], response_model=None)
    async def messages(request: Request, body: MessagesRequest) -> Response:
        """A reply to a conversation, in blocks."""
        job = await job_of(service, body)
        if body.stream:
            generation = service.run(job)
            return EventStream(stream(service, job, generation), request.url.path, generation.abort)
        found, done = await while_connected(request, whole(service.run(job)))
        return JSONResponse({
            **head(service), "content": [shape(b) for b in found], **ending(done),
            "usage": usage(service, job, done),
        })  # fmt: skip

    return routes


async def job_of(service: Service, body: MessagesRequest) -> Job:
    """The job that a request asks for. ApiError names what cannot be honoured."""
    check_model(service, body.model)
    choice, switch = body.tool_choice, body.thinking
    if choice and choice.type != "none" and not body.tools:
        raise ApiError(400, "tool_choice needs tools", "tool_choice")
    if switch and (switch.type == "enabled") != (switch.budget_tokens is not None):
        raise ApiError(400, "thinking: budget_tokens belongs to type enabled", "thinking")
    if choice and (choice.type == "tool") != (choice.name is not None):
        raise ApiError(400, "tool_choice: name belongs to type tool", "tool_choice")
    thinking = Thinking(
        thinking_token_budget=switch.budget_tokens if switch else None,
        max_thinking_seconds=body.max_thinking_seconds, max_seconds=body.max_seconds,
        think_language=body.think_language, answer_language=body.answer_language,
    )  # fmt: skip
    tools = [Tool(t.name, t.description or "", t.input_schema) for t in body.tools or ()]
    kinds = {"auto": "auto", "any": "required", "none": "none", "tool": f"={choice.name if choice else ''}"}
    wanted = Wanted(
        body.max_tokens, tuple(body.stop_sequences or ()), tools=tools,
        tool_choice=kinds[choice.type] if choice else "auto",
        parallel_calls=not (choice and choice.disable_parallel_tool_use),
    )  # fmt: skip
    on = None if switch is None or switch.type == "adaptive" else switch.type == "enabled"
    shown = () if choice and choice.type == "none" else tools
    prompt = build_prompt(service.tokenizer, conversation(body), shown, on)
    return await make_job(service, prompt, body, wanted, thinking, switch=on)


def conversation(body: MessagesRequest) -> list[dict[str, Any]]:
    """The messages in OpenAI's form, which prompts are built from."""
    out: list[dict[str, Any]] = []
    if body.system:
        text = body.system if isinstance(body.system, str) else "".join(b.text for b in body.system)
        out.append({"role": "system", "content": text})
    for turn in body.messages:
        if isinstance(turn.content, str):
            out.append({"role": turn.role, "content": turn.content})
        else:
            out += _turn(turn.role, turn.content)
    return out


def _turn(role: str, content: list[Any]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    message: dict[str, Any] = {"role": role, "content": "", "reasoning_content": "", "tool_calls": []}
    for block in content:
        if isinstance(block, ToolResultBlock):
            inner = block.content or ""
            text = inner if isinstance(inner, str) else "".join(b.text for b in inner)
            text = f"error: {text}" if block.is_error else text
            results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
        elif isinstance(block, TextBlock):
            message["content"] += block.text
        elif isinstance(block, ThinkingBlock):
            message["reasoning_content"] += block.thinking
        else:
            arguments = json.dumps(block.input, ensure_ascii=False)
            function = {"name": block.name, "arguments": arguments}
            message["tool_calls"].append({"id": block.id, "type": "function", "function": function})
    kept = {k: v for k, v in message.items() if v or k in ("role", "content")}
    said = message["content"] or message["tool_calls"] or message["reasoning_content"]
    return [*results, kept] if said or not results else results


def head(service: Service) -> dict[str, Any]:
    """What a message begins with."""
    name = service.settings.name
    return {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", "model": name}


def shape(block: Block, empty: bool = False) -> dict[str, Any]:
    """A block as Anthropic writes it; `empty` as it starts in a stream."""
    text = "" if empty else block.text
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": ""}
    if block.kind == "answer":
        return {"type": "text", "text": text, "citations": None}
    return {"type": "tool_use", "id": f"toolu_{block.id}", "name": block.name, "input": _input(text)}


def _input(text: str) -> Any:
    try:
        return json.loads(text) if text else {}
    except ValueError:  # the reply was cut inside its arguments
        return {}


def ending(done: Done) -> dict[str, Any]:
    """stop_reason and stop_sequence."""
    reason = {"stop": "end_turn", "tool_calls": "tool_use", "abort": "end_turn"}.get(done.ending, "max_tokens")
    if done.stop_string is not None:
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": done.stop_string}


def usage(service: Service, job: Job, done: Done | None) -> dict[str, Any]:
    """Anthropic's usage; `reasoning_tokens` and `cost` beside."""
    u = usage_of(service, len(job.prompt_ids), done.tokens if done else 0, done.reasoning_tokens if done else 0)
    out = {"input_tokens": u["prompt_tokens"], "output_tokens": u["completion_tokens"]}
    out["reasoning_tokens"] = u["completion_tokens_details"]["reasoning_tokens"]
    return out | ({"cost": u["cost"]} if "cost" in u else {})


DELTAS = {
    "reasoning": ("thinking_delta", "thinking"), "answer": ("text_delta", "text"),
    "call": ("input_json_delta", "partial_json"),
}  # fmt: skip


async def stream(service: Service, job: Job, generation: Generation) -> AsyncIterator[bytes]:
    """Anthropic's events."""
    generation.interval = service.settings.stream_interval
    start = {**head(service), "content": [], "stop_reason": None, "stop_sequence": None}
    yield _event("message_start", message={**start, "usage": usage(service, job, None)})
    async for change in blocks(generation):
        if isinstance(change, Done):
            yield _event("message_delta", delta=ending(change), usage=usage(service, job, change))
            yield _event("message_stop")
        elif change.what == "start":
            yield _event("content_block_start", index=change.block.index, content_block=shape(change.block, empty=True))
        elif change.what == "delta":
            kind, field = DELTAS[change.block.kind]
            yield _event("content_block_delta", index=change.block.index, delta={"type": kind, field: change.text})
        else:
            yield _event("content_block_stop", index=change.block.index)


def _event(kind: str, **fields: Any) -> bytes:
    return data({"type": kind, **fields}, kind)
