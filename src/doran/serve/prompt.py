"""From an API's messages to the ids a model reads: templates with and without a place for thoughts and tools.

Messages are plain dicts in OpenAI's form; schemas are checked before. Not here: sampling.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from doran.base.errors import UsageError
from doran.serve.tools import Tool, describe, format_of, written
from doran.text.parse import CLOSE, OPEN, opens_thought
from doran.text.tokenizer import Tokenizer


class Prompt(NamedTuple):
    """Ids, and whether they end inside a thought."""

    ids: list[int]
    opened: bool


def build_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Tool] = (),
    thinking: bool | None = None,
) -> Prompt:
    """Render a conversation. `thinking`: False closes the thought before it begins, True and None leave it to the model
    and its template. UsageError: no template, or one that refuses the conversation."""
    template = _text_of(tokenizer)
    sent = [_plain(m, template) for m in messages]
    variables: dict[str, Any] = {}
    if "enable_thinking" in template and thinking is not None:
        variables["enable_thinking"] = thinking
    listed = None
    if tools and re.search(r"\btools\b", template):
        listed = [{"type": "function", "function": tool._asdict()} for tool in tools]
    elif tools:
        sent = _with_system(sent, describe(tools, format_of(template)))
    ids = tokenizer.encode_chat(sent, tools=listed, **variables)
    tail = tokenizer.decode(ids[-16:])
    opened = opens_thought(tail)
    if thinking is False and not tail.rstrip().endswith(CLOSE):
        ids += tokenizer.encode(f"\n{CLOSE}\n\n" if opened else f"{OPEN}\n\n{CLOSE}\n\n", specials=True)
        opened = False
    return Prompt(ids, opened)


def _text_of(tokenizer: Tokenizer) -> str:
    template = tokenizer.chat_template
    if template is None:
        raise UsageError("this model has no chat template", hint="use /v1/completions")
    return "\n".join(template.values()) if isinstance(template, dict) else template


def _plain(message: Mapping[str, Any], template: str) -> dict[str, Any]:
    """A message as this template can read it."""
    out = {key: value for key, value in message.items() if value is not None}
    out["role"] = "system" if out["role"] == "developer" else out["role"]
    out["content"] = text_of(out.get("content"))
    thought = out.pop("reasoning", None)
    if out.get("reasoning_content") is None and thought is not None:
        out["reasoning_content"] = thought
    knows_tools = re.search(r"""['"]tool['"]""", template) is not None
    form = format_of(template)
    if out["role"] == "assistant" and (calls := out.get("tool_calls")):
        if not knows_tools:
            out["content"] += written(calls, form)
            del out["tool_calls"]
        elif re.search(r"arguments\s*\|\s*tojson", template):
            out["tool_calls"] = [_with_parsed_arguments(call) for call in calls]
        elif not out["content"]:
            out["content"] = None  # DeepSeek's templates ask for just that
    if out["role"] == "tool" and not knows_tools:
        text = out["content"]
        out = {"role": "user", "content": f"<｜tool▁outputs▁begin｜>{text}<｜tool▁outputs▁end｜>"}
    return out


def _with_parsed_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    try:
        function["arguments"] = json.loads(function["arguments"])
    except ValueError:
        raise UsageError(f"tool_calls: the arguments of {function['name']} are not JSON") from None
    return {**call, "function": function}


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of text parts. UsageError for pictures and the like."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content:
        if part.get("type") not in ("text", "input_text", "output_text"):
            raise UsageError(f"content of type {part.get('type')!r} is not supported", hint="send text")
        texts.append(part["text"])
    return "".join(texts)


def _with_system(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": messages[0]["content"] + "\n\n" + text}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
