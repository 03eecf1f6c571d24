"""POST /v1/chat/completions: OpenAI's chat, with thoughts beside the answers."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from doran.engine.control import Token
from doran.serve.collect import Collected, Vote, collect, vote
from doran.serve.errors import ApiError
from doran.serve.generation import Done, Generation, Job, Service
from doran.serve.options import Wanted, check_model, make_job, stops, thinks
from doran.serve.prompt import build_prompt
from doran.serve.reply import Ending, Piece
from doran.serve.schema import ChatRequest, ChosenTool
from doran.serve.sse import EventStream, data, while_connected
from doran.serve.tools import Tool

FINISH: dict[Ending, str] = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "loop": "length", "seconds": "length",
    "abort": "stop", "error": "stop",
}  # fmt: skip

AFTER = ', "logprobs": null, "finish_reason": null}]}\n\n'
_json = json.JSONEncoder(ensure_ascii=False).encode


def router(service: Service) -> APIRouter:
    """The endpoint, over this service."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions", tags=["OpenAI"], response_model=None)
    async def chat(request: Request, body: ChatRequest) -> Response:
        """One or more replies to a conversation; the thought comes as `reasoning_content` and `reasoning`."""
        job = await job_of(service, body)
        shape = _Shape(service, body, job)
        if not body.stream:
            return JSONResponse(await while_connected(request, shape.whole()))
        generation = service.run(job)  # a full queue is a 429 before the stream begins
        chunks = shape.stream_vote(generation) if body.cons_k else shape.stream(generation)
        return EventStream(chunks, request.url.path, generation.abort)

    return routes


async def job_of(service: Service, body: ChatRequest) -> Job:
    """The job that a request asks for. ApiError names what cannot be honoured."""
    check_model(service, body.model)
    if body.max_tokens and body.max_completion_tokens:
        raise ApiError(400, "give max_tokens or max_completion_tokens, not both", "max_tokens")
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", "top_logprobs")
    if body.stream_options and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", "stream_options")
    if body.tool_choice not in (None, "none") and not body.tools:
        raise ApiError(400, "tool_choice needs tools", "tool_choice")
    if body.cons_k and body.tools:
        raise ApiError(400, "cons_k and tools do not go together: calls are not voted on", "cons_k")
    form = body.response_format
    if form and (form.type == "json_schema") != (form.json_schema is not None):
        raise ApiError(400, "response_format: type json_schema and json_schema belong together", "response_format")
    switch = body.chat_template_kwargs.enable_thinking if body.chat_template_kwargs else None
    tools = [Tool(t.function.name, t.function.description or "", t.function.parameters or {}) for t in body.tools or ()]
    choice = body.tool_choice
    wanted = Wanted(
        max_tokens=body.max_tokens or body.max_completion_tokens,
        stop=stops(body.stop),
        n=body.n or 1,
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        schema=(form.json_schema.schema_ or {}) if form and form.json_schema else None,
        json_object=form is not None and form.type == "json_object",
        tools=tools,
        tool_choice=f"={choice.function.name}" if isinstance(choice, ChosenTool) else choice or "auto",
        parallel_calls=body.parallel_tool_calls is not False,
    )
    messages = [m.model_dump() for m in body.messages]
    shown = () if choice == "none" else tools
    prompt = build_prompt(service.tokenizer, messages, shown, thinks(body, switch))
    return await make_job(service, prompt, body, wanted, body, body, switch)


class _Shape:
    """Forms the answers to one request."""

    def __init__(self, service: Service, body: ChatRequest, job: Job) -> None:
        self.service, self.body, self.job = service, body, job
        self.id, self.created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
        self.voted: Vote | None = None
        head = json.dumps(self.head("chat.completion.chunk"), ensure_ascii=False).removesuffix("}")
        self._before = f'data: {head}, "choices": [{{"index": '

    def head(self, kind: str) -> dict[str, Any]:
        """What every answer and chunk begins with."""
        name = self.service.settings.name
        return {"id": self.id, "object": kind, "created": self.created, "model": name, "system_fingerprint": None}

    async def gathered(self, generation: Generation) -> list[Collected]:
        """All choices; the voted one where a vote is asked for."""
        if not self.body.cons_k:
            return await collect(generation)
        chosen, self.voted = await vote(generation)
        return [chosen]

    async def whole(self) -> dict[str, Any]:
        """The answer without streaming."""
        choices = await self.gathered(self.service.run(self.job))
        return {
            **self.head("chat.completion"),
            "choices": [self._choice(i, c) for i, c in enumerate(choices)],
            "usage": self.usage([c.done for c in choices]),
            **self._vote(),
        }

    def _choice(self, index: int, c: Collected) -> dict[str, Any]:
        assert c.done
        content = c.answer or (None if c.calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        message |= self.thought(c.reasoning)
        if c.calls:
            message["tool_calls"] = [
                {"id": call_id(), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in c.calls
            ]
        logprobs = {"content": self._logprobs(c.tokens), "refusal": None} if self.body.logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, **ending(c.done)}

    def thought(self, text: str) -> dict[str, str]:
        """The thought under the names that the server's switch says."""
        if not text or self.body.include_reasoning is False:
            return {}
        wanted = self.service.settings.reasoning_field
        return {name: text for name in ("reasoning_content", "reasoning") if wanted in ("both", name)}

    async def stream(self, generation: Generation) -> AsyncIterator[bytes]:
        """Chunks, the last with the usage where it is asked for."""
        generation.interval = self.service.settings.stream_interval
        ended: list[Done | None] = []
        roles: set[int] = set()
        async with generation:
            async for batch in generation.batches():
                out = []
                for index, event in batch:
                    if index not in roles:
                        roles.add(index)
                        out.append(self._chunk(index, {"role": "assistant", "content": ""}))
                    if isinstance(event, Done):
                        ended.append(event)
                        out.append(self._chunk(index, {}, **ending(event)))
                    elif delta := self._delta(event):
                        logprobs = self._logprobs(event.tokens) if event.kind == "answer" else None
                        out.append(self._chunk(index, delta, logprobs))
                if len(ended) == self.job.n:
                    out += self._last(ended)
                if out:
                    yield b"".join(out)

    async def stream_vote(self, generation: Generation) -> AsyncIterator[bytes]:
        """The winner, once it is known."""
        (chosen,) = await self.gathered(generation)
        assert chosen.done
        yield self._chunk(0, {"role": "assistant", "content": ""})
        if thought := self.thought(chosen.reasoning):
            yield self._chunk(0, thought)
        yield self._chunk(0, {"content": chosen.answer}, self._logprobs(chosen.tokens))
        yield self._chunk(0, {}, **ending(chosen.done))
        for chunk in self._last([chosen.done]):
            yield chunk

    def _last(self, ended: Sequence[Done | None]) -> list[bytes]:
        chunks = [b"data: [DONE]\n\n"]
        if self.body.stream_options and self.body.stream_options.include_usage:
            usage = {**self.head("chat.completion.chunk"), "choices": [], "usage": self.usage(ended), **self._vote()}
            chunks.insert(0, data(usage))
        return chunks

    def _delta(self, piece: Piece) -> dict[str, Any]:
        if piece.kind == "reasoning":
            return dict(self.thought(piece.text))
        if piece.kind == "answer":
            return {"content": piece.text}
        call: dict[str, Any] = {"index": piece.call, "function": {"arguments": piece.text}}
        if piece.kind == "call":
            call |= {"id": call_id(), "type": "function", "function": {"name": piece.text, "arguments": ""}}
        return {"tool_calls": [call]}

    def _chunk(self, index: int, delta: dict[str, Any], logprobs: list[Any] | None = None, **end: Any) -> bytes:
        if not logprobs and not end:  # nearly all of them: only what changes is put into JSON
            return f'{self._before}{index}, "delta": {_json(delta)}{AFTER}'.encode()
        content = {"content": logprobs, "refusal": None} if self.body.logprobs and logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": content, "finish_reason": None, **end}
        return data({**self.head("chat.completion.chunk"), "choices": [choice]})

    def _logprobs(self, tokens: Sequence[Token]) -> list[dict[str, Any]]:
        return [logprob_of(self.service, t) for t in tokens]

    def usage(self, ended: Sequence[Done | None]) -> dict[str, Any]:
        """Tokens, and their price where the server has prices. A vote pays for all its replies."""
        tokens = self.voted.tokens if self.voted else sum(d.tokens for d in ended if d)
        reasoning = self.voted.reasoning_tokens if self.voted else sum(d.reasoning_tokens for d in ended if d)
        return usage_of(self.service, len(self.job.prompt_ids), tokens, reasoning)

    def _vote(self) -> dict[str, Any]:
        v = self.voted
        return {"vote": {"counts": v.counts, "asked": v.asked, "heard": v.heard}} if v else {}


def usage_of(service: Service, prompt: int, tokens: int, reasoning: int) -> dict[str, Any]:
    """OpenAI's usage object."""
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    s = service.settings
    if s.price_output is not None:
        usage["cost"] = (prompt * (s.price_input or 0.0) + tokens * s.price_output) / 1e6
    return usage


def ending(done: Done) -> dict[str, Any]:
    """finish_reason, and in doran's own field what it does not say."""
    out: dict[str, Any] = {"finish_reason": FINISH[done.ending]}
    if done.stop_string is not None or done.ending in ("loop", "seconds"):
        out["stop_reason"] = done.stop_string or done.ending
    if done.closed_by:
        out["thought_closed_by"] = done.closed_by
    return out


def call_id() -> str:
    """A new tool call's id."""
    return f"call_{secrets.token_hex(12)}"


def logprob_of(service: Service, token: Token) -> dict[str, Any]:
    """One token's entry. Logprobs are the model's own, at temperature 1, before penalties and masks."""
    entries = [_entry(service, index, value) for index, value in token.top]
    return {**entries[0], "top_logprobs": entries[1:]}


def _entry(service: Service, index: int, logprob: float) -> dict[str, Any]:
    from doran.text.detok import token_bytes

    name = service.tokenizer.backend.id_to_token(index)
    raw = b"" if name is None else token_bytes(name)
    return {"token": raw.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(raw)}
