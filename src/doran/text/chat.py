"""Chat templates: a conversation rendered by a checkpoint's own Jinja2 text, exactly as transformers renders it.

Templates come with downloaded folders, so they run sandboxed: they cannot reach Python objects or change their input.
Not here: which template to use and what becomes of the text (tokenizer.py).
"""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from doran.base.errors import ConfigError

_REFUSALS = (jinja2.TemplateError, TypeError, LookupError, AttributeError, ValueError, ArithmeticError)
Message = Mapping[str, Any]  # {"role": "user", "content": "..."} and what the template reads beside (tool_calls, ...)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks a template's assistant text for other tools; no-op here."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
        """Keep the block's body, as a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML; chat templates were written against this one.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _normalized(messages: Sequence[Message]) -> list[Message]:
    """As transformers does: keys without a value go, and a thought is there under both names that templates read."""
    out: list[Message] = []
    for message in messages:
        held = {key: value for key, value in message.items() if value is not None}
        thoughts = [held[key] for key in ("reasoning_content", "thinking", "reasoning") if key in held]
        out.append({"thinking": thoughts[0], **held, "reasoning_content": thoughts[0]} if thoughts else held)
    return out


@lru_cache(maxsize=64)
def _compiled(template: str) -> jinja2.Template:
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _raise
    return env.from_string(template)


def render(
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    now: Callable[[], datetime] = datetime.now,
    **variables: Any,
) -> str:
    """Render `messages` with a Jinja2 chat template; `variables`: bos_token, eos_token, enable_thinking and the like.

    `now` feeds the template's `strftime_now(format)`: Llama 3 and gpt-oss write today's date into the system turn.
    ConfigError names what the template refused (a role out of order, a field that is missing).
    """
    given = {
        "tools": tools, "documents": None, "add_generation_prompt": add_generation_prompt,
        "strftime_now": lambda form: now().strftime(form), **variables,
    }
    try:
        compiled = _compiled(template)
        try:
            return compiled.render(messages=_normalized(messages), **given)
        except _REFUSALS:
            # DeepSeek's templates ask whether `content` is none, and fail where the key is gone. Keep it then.
            if all(message.get("content", "") is not None for message in messages):
                raise
            return compiled.render(messages=messages, **given)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(
            f"the chat template is not valid Jinja2: line {error.lineno}: {error.message}",
            hint="copy chat_template again from its source",
        ) from None
    except _REFUSALS as error:
        raise ConfigError(
            f"the chat template refused the conversation: {error}",
            hint="check the order of the roles and that each message has a role and a content",
        ) from None
