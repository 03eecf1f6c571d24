"""POST /v1/completions: text goes on as it is. One prompt or several, n of each; `best_of` keeps the likeliest."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from doran.engine.control import Token
from doran.serve.chat_api import FINISH, logprob_of, usage_of
from doran.serve.collect import Collected, collect
from doran.serve.errors import ApiError
from doran.serve.generation import Done, Generation, Job, Service
from doran.serve.options import Wanted, check_model, make_job, stops
from doran.serve.prompt import Prompt
from doran.serve.schema import CompletionRequest, Thinking
from doran.serve.sse import EventStream, data, while_connected


def router(service: Service) -> APIRouter:
    """The endpoint, over this service."""
    routes = APIRouter()

    @routes.post("/v1/completions", tags=["OpenAI"], response_model=None)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Continues a text. Thoughts stay in the text, tags and all."""
        shape = _Shape(service, body, await jobs_of(service, body))
        if not body.stream:
            return JSONResponse(await while_connected(request, shape.whole()))
        if len(shape.jobs) > 1:
            raise ApiError(400, "stream takes one prompt", "prompt")
        generation = service.run(shape.jobs[0])
        return EventStream(shape.stream(generation), request.url.path, generation.abort)

    return routes


async def jobs_of(service: Service, body: CompletionRequest) -> list[Job]:
    """One job for each prompt."""
    check_model(service, body.model)
    n, best = body.n or 1, body.best_of or body.n or 1
    if best < n:
        raise ApiError(400, "best_of is less than n", "best_of")
    if best > n and body.stream:
        raise ApiError(400, "best_of and stream do not go together: the best is known at the end", "best_of")
    if body.stream_options and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", "stream_options")
    prompts = _prompts(service, body.prompt)
    if len(prompts) * best > service.settings.max_n:
        raise ApiError(400, f"{len(prompts) * best} replies are more than this server makes at once", "n")
    wanted = Wanted(body.max_tokens or 16, stops(body.stop), best, body.logprobs)
    thinking = Thinking(max_seconds=body.max_seconds, answer_language=body.answer_language)
    return [await make_job(service, Prompt(ids, False), body, wanted, thinking, body, split=False) for ids in prompts]


def _prompts(service: Service, prompt: str | Sequence[Any]) -> list[list[int]]:
    """Every form of `prompt` as lists of ids; a text gets the begin token, ids are taken as they are."""
    given: list[Any] = [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else list(prompt)
    if not given:
        raise ApiError(400, "prompt is empty", "prompt")
    bos = [] if service.tokenizer.bos_id is None else [service.tokenizer.bos_id]
    found = [bos + service.tokenizer.encode(p) if isinstance(p, str) else [int(i) for i in p] for p in given]
    for ids in found:
        if not ids or min(ids) < 0 or max(ids) >= service.vocab_size:
            raise ApiError(400, "prompt is empty or has ids outside the vocabulary", "prompt")
    return found


class _Shape:
    """Forms the answers to one request."""

    def __init__(self, service: Service, body: CompletionRequest, jobs: list[Job]) -> None:
        self.service, self.body, self.jobs = service, body, jobs
        self.id, self.created = f"cmpl-{secrets.token_hex(12)}", int(time.time())

    def head(self) -> dict[str, Any]:
        """What every answer and chunk begins with."""
        name = self.service.settings.name
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": name}

    async def whole(self) -> dict[str, Any]:
        """The answer without streaming."""
        choices, ended = [], []
        for job, made in zip(self.jobs, await self._gathered(), strict=True):
            ended += [c.done for c in made]
            kept = sorted(made, key=lambda c: -c.done.mean_logprob if c.done else 0.0) if self.body.best_of else made
            choices += [self._choice(job, c) for c in kept[: self.body.n or 1]]
        for i, choice in enumerate(choices):
            choice["index"] = i
        return {**self.head(), "choices": choices, "usage": self._usage(ended)}

    async def _gathered(self) -> list[list[Collected]]:
        """All prompts' choices, made together. Where one cannot be taken or fails, the others are given up."""
        running: list[Generation] = []
        try:
            for job in self.jobs:
                running.append(self.service.run(job))
            return await asyncio.gather(*map(collect, running))
        except BaseException:
            for generation in running:
                generation.abort()
            raise

    def _echo(self, job: Job) -> str:
        return self.service.tokenizer.decode(job.prompt_ids, skip_special=True) if self.body.echo else ""

    def _choice(self, job: Job, c: Collected) -> dict[str, Any]:
        assert c.done
        logprobs = self._logprobs(c.tokens) if self.body.logprobs is not None else None
        return {"text": self._echo(job) + c.answer, "logprobs": logprobs, "finish_reason": FINISH[c.done.ending]}

    async def stream(self, generation: Generation) -> AsyncIterator[bytes]:
        """Chunks, the last with the usage where it is asked for."""
        generation.interval = self.service.settings.stream_interval
        ended: list[Done | None] = []
        async with generation:
            for index in range(self.jobs[0].n if self.body.echo else 0):
                yield self._chunk(index, self._echo(self.jobs[0]))
            async for batch in generation.batches():
                out = []
                for index, event in batch:
                    if isinstance(event, Done):
                        ended.append(event)
                        out.append(self._chunk(index, "", FINISH[event.ending]))
                    else:
                        out.append(self._chunk(index, event.text, None, event.tokens))
                if out:
                    yield b"".join(out)
        if self.body.stream_options and self.body.stream_options.include_usage:
            yield data({**self.head(), "choices": [], "usage": self._usage(ended)})
        yield b"data: [DONE]\n\n"

    def _chunk(self, index: int, text: str, finish: str | None = None, tokens: Sequence[Token] = ()) -> bytes:
        logprobs = self._logprobs(tokens) if tokens and self.body.logprobs is not None else None
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return data({**self.head(), "choices": [choice]})

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        entries = [logprob_of(self.service, t) for t in tokens]
        return {
            "tokens": [e["token"] for e in entries],
            "token_logprobs": [e["logprob"] for e in entries],
            "top_logprobs": [{t["token"]: t["logprob"] for t in e["top_logprobs"]} for e in entries],
            "text_offset": None,
        }

    def _usage(self, ended: Sequence[Done | None]) -> dict[str, Any]:
        done = [d for d in ended if d]
        prompt = sum(len(job.prompt_ids) for job in self.jobs)
        return usage_of(self.service, prompt, sum(d.tokens for d in done), sum(d.reasoning_tokens for d in done))
