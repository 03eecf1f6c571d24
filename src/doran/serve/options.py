"""From request fields to a job: defaults, limits, budgets, for all endpoints alike. A field is honoured or refused."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from doran.engine.request import SamplingParams
from doran.serve.errors import ApiError
from doran.serve.generation import Job, Service
from doran.serve.limits import Limits
from doran.serve.prompt import Prompt
from doran.serve.reply import Plan
from doran.serve.schema import Penalised, Sampling, Thinking
from doran.serve.tools import Tool, ToolFormat, calls_grammar, format_of

EFFORT = {"none": 0.0, "minimal": 1 / 16, "low": 1 / 4, "medium": 1 / 2, "high": None, "xhigh": None}


@dataclass
class Wanted:
    """What an endpoint asks of a reply beside sampling."""

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    top_logprobs: int | None = None
    schema: dict[str, Any] | None = None  # the answer is JSON of this schema
    json_object: bool = False
    tools: Sequence[Tool] = ()
    tool_choice: str = "auto"  # auto, none, required, or "=NAME"
    parallel_calls: bool = True


def check_model(service: Service, name: str | None) -> None:
    """404 unless the name is the served one."""
    if name is not None and name != service.settings.name:
        raise ApiError(404, f"no model {name!r} here; it serves {service.settings.name!r}", "model", "model_not_found")


def thinks(t: Thinking, switch: bool | None) -> bool | None:
    """Whether to think: False, True, or None for the model's own way. ApiError where fields contradict each other."""
    off = t.reasoning_effort == "none" or t.thinking_token_budget == 0
    if switch and off:
        raise ApiError(400, "thinking is on and its budget nothing: leave one out", "reasoning_effort")
    return False if off else switch


async def make_job(
    service: Service,
    prompt: Prompt,
    sampling: Sampling,
    wanted: Wanted,
    thinking: Thinking,
    penalised: Penalised | None = None,
    switch: bool | None = None,
    split: bool = True,
) -> Job:
    """A checked job. ApiError or UsageError name the field that cannot be honoured."""
    s = service.settings
    room = service.context - len(prompt.ids)
    if room < 1:
        raise ApiError(
            400, f"the prompt has {len(prompt.ids)} tokens, the model's context is {service.context}",
            code="context_length_exceeded",
        )  # fmt: skip
    if wanted.max_tokens is not None and wanted.max_tokens > room:
        raise ApiError(400, f"max_tokens is {wanted.max_tokens}, the prompt leaves room for {room}", "max_tokens",
                       "context_length_exceeded")  # fmt: skip
    samples = thinking.cons_k or wanted.n
    if samples > s.max_n:
        raise ApiError(400, f"{samples} replies are more than this server makes at once ({s.max_n})", "n")
    if thinking.cons_k and wanted.n > 1:
        raise ApiError(400, "cons_k and n do not go together: a vote returns one reply", "cons_k")
    most = min(wanted.max_tokens or s.max_tokens_default, room)
    most = _within_cost(service, thinking, most, len(prompt.ids), samples)
    grammar, form, calls = _structure(service, wanted)
    if thinking.answer_language and (grammar or form):
        raise ApiError(400, "answer_language does not go together with tools or response_format", "answer_language")
    if split and (thinking.think_language or thinking.answer_language) and not _has_tags(service):
        raise ApiError(400, "this tokenizer has no </think> token, which language guards need", "think_language")
    plan = Plan(
        service.tokenizer,
        service.vocab_size,
        frozenset(service.stop_ids),
        split=split,
        opened=prompt.opened,
        may_think=thinks(thinking, switch) is not False,
        stop=wanted.stop,
        limits=_limits(service, thinking, most),
        grammars=service.grammars if grammar or calls else None,
        grammar=grammar,
        tool_form=form,
        calls_grammar=calls,
        think_guard=await service.guard(thinking.think_language),
        answer_guard=await service.guard(thinking.answer_language),
        keep_tokens=wanted.top_logprobs is not None,
    )
    params = SamplingParams(
        most,
        temperature=s.temperature if sampling.temperature is None else sampling.temperature,
        top_p=s.top_p if sampling.top_p is None else sampling.top_p,
        top_k=sampling.top_k or 0,
        min_p=sampling.min_p or 0.0,
        seed=secrets.randbits(62) if sampling.seed is None else sampling.seed,
        stop_token_ids=service.stop_ids,
    )
    job = Job(prompt.ids, params, plan, samples, repetition=sampling.repetition_penalty or 1.0)
    job.top_logprobs = wanted.top_logprobs
    if penalised:
        job.presence, job.frequency = penalised.presence_penalty or 0.0, penalised.frequency_penalty or 0.0
        job.bias = _bias(penalised.logit_bias or {}, service.vocab_size)
    return job


def _has_tags(service: Service) -> bool:
    return {"<think>", "</think>"} <= service.tokenizer.control_tokens.keys()


def _within_cost(service: Service, t: Thinking, most: int, prompt_tokens: int, samples: int) -> int:
    """The tokens that max_cost buys, after the prompt is paid."""
    if t.max_cost is None:
        return most
    s = service.settings
    if s.price_output is None:
        raise ApiError(400, "this server has no prices, so it cannot keep to max_cost", "max_cost")
    left = t.max_cost - prompt_tokens * (s.price_input or 0.0) / 1e6
    affordable = most if not s.price_output else int(min(most, left / s.price_output * 1e6 / samples))
    if left <= 0 or affordable < 1:
        raise ApiError(400, f"max_cost {t.max_cost} does not pay for one token", "max_cost")
    return min(most, affordable)


def _limits(service: Service, t: Thinking, most: int) -> Limits:
    budget = t.thinking_token_budget
    share = EFFORT[t.reasoning_effort] if t.reasoning_effort else None
    if budget is not None and share is not None:
        raise ApiError(400, "give thinking_token_budget or reasoning_effort, not both", "thinking_token_budget")
    if budget is not None and budget >= most:
        raise ApiError(400, f"thinking_token_budget is {budget}: it must be below the reply's {most} tokens",
                       "thinking_token_budget")  # fmt: skip
    if share is not None:
        budget = int(most * share)
    elif t.max_cost is not None and budget is None:
        budget = most * 3 // 4  # money buys an answer, not an unfinished thought
    seconds = min(t.max_seconds or service.settings.request_seconds, service.settings.request_seconds)
    guard = service.settings.loop_guard if t.loop_guard is None else t.loop_guard
    return Limits(budget, t.max_thinking_seconds, seconds, guard)


def _structure(service: Service, w: Wanted) -> tuple[str | None, ToolFormat | None, str | None]:
    """(grammar of the whole answer, form of tool calls, grammar behind their trigger)."""
    whole = service.grammars.json_schema(w.schema) if w.json_object or w.schema is not None else None
    if not w.tools or w.tool_choice == "none":
        return whole, None, None
    if whole:
        raise ApiError(400, "response_format and tools do not go together; use tool_choice none", "response_format")
    template = service.tokenizer.chat_template
    form = format_of("\n".join(template.values()) if isinstance(template, dict) else template)
    tools = w.tools
    if w.tool_choice.startswith("="):
        tools = [tool for tool in tools if tool.name == w.tool_choice[1:]]
        if not tools:
            raise ApiError(400, f"tool_choice names {w.tool_choice[1:]!r}, which is not among the tools", "tool_choice")
    forced = w.tool_choice != "auto"
    grammar = calls_grammar(service.grammars, form, tools, w.parallel_calls, trigger=forced)
    return (grammar, form, None) if forced else (None, form, grammar)


def _bias(given: dict[str, float], vocab_size: int) -> dict[int, float]:
    bias = {}
    for key, value in given.items():
        if not (key.isascii() and key.isdecimal() and int(key) < vocab_size):
            raise ApiError(400, f"logit_bias: {key!r} is no token id of this model", "logit_bias")
        if abs(value) > 100:
            raise ApiError(400, "logit_bias: values go from -100 to 100", "logit_bias")
        bias[int(key)] = value
    return bias


def stops(value: str | list[str] | None) -> tuple[str, ...]:
    """`stop` as a tuple."""
    return () if not value else (value,) if isinstance(value, str) else tuple(value)
