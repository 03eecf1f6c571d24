"""Requests of the OpenAI endpoints, field by field: what is not here is refused by name. Shapes only, no behaviour."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Language = Literal["ko", "en"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Stops = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=16)]


class Body(BaseModel):
    """A part of a request: unknown fields are refused, nothing is converted, numbers are finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Sampling(Body):
    """How to draw tokens; the same for all endpoints. What is None takes the server's default."""

    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)


class Thinking(Body):
    """doran's options about thoughts; vLLM's names where it has the thing."""

    thinking_token_budget: int | None = Field(None, ge=0, description="Most tokens of the thought; then it is closed.")
    reasoning_effort: Effort | None = Field(None, description="none: no thought; else a share of max_tokens.")
    max_thinking_seconds: float | None = Field(None, gt=0, description="The thought is closed then.")
    max_seconds: float | None = Field(None, gt=0, description="The reply ends then; its thought at 80% of it.")
    max_cost: float | None = Field(None, gt=0, description="In the server's currency; needs its prices.")
    think_language: Language | None = Field(None, description="Script that the thought keeps to.")
    answer_language: Language | None = Field(None, description="Script that the answer keeps to.")
    cons_k: int | None = Field(None, ge=2, description="Sample k replies, return the answer most agree on.")
    loop_guard: bool | None = Field(None, description="End thoughts and answers that repeat themselves.")


class Penalised(Body):
    """OpenAI's penalties and biases."""

    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None


class StreamOptions(Body):
    """OpenAI's."""

    include_usage: bool | None = None


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class CalledFunction(Body):
    """Of a tool call in a message."""

    name: str = Field(max_length=64)
    arguments: str


class CalledTool(Body):
    """A tool call that the assistant made earlier."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Body):
    """One message. A thought may come back under either name."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: str | None = None
    refusal: None = None


class FunctionDefinition(Body):
    """A function the model may call."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None  # calls always obey the schema here


class ToolDefinition(Body):
    """OpenAI's."""

    type: Literal["function"]
    function: FunctionDefinition


class ChosenName(Body):
    """The function that must be called."""

    name: str


class ChosenTool(Body):
    """A tool_choice by name."""

    type: Literal["function"]
    function: ChosenName


class JsonSchema(Body):
    """response_format's schema."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class TemplateArguments(Body):
    """vLLM's way to switch thinking."""

    enable_thinking: bool | None = None


class Labels(Body):
    """Fields that say who asks, not what to do; they are accepted and do nothing else."""

    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class ChatRequest(Sampling, Penalised, Thinking, Labels):
    """POST /v1/chat/completions."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1)
    stop: str | Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[ToolDefinition] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    include_reasoning: bool | None = Field(None, description="false: leave the thought out of the reply.")
    chat_template_kwargs: TemplateArguments | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None


class CompletionRequest(Sampling, Penalised, Labels):
    """POST /v1/completions: the prompt is continued as it is, no template, no thought taken out."""

    model: str
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1)
    best_of: int | None = Field(None, ge=1)
    echo: bool | None = None
    stop: str | Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    max_seconds: float | None = Field(None, gt=0)
    answer_language: Language | None = None


class TokenizeRequest(Body):
    """POST /tokenize: a text, or messages as the template writes them."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1)


class DetokenizeRequest(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]]
