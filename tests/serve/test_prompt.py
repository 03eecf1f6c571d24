"""Conversations reach templates that know of thoughts and tools, and templates that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from doran.base.errors import UsageError
from doran.serve.prompt import build_prompt
from doran.serve.tools import R1, Tool
from doran.text.tokenizer import Tokenizer

TOOL = Tool("weather", "how it is outside", {"type": "object", "properties": {}})
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "?"},
    {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "sunny </think>"},
]


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    from dataclasses import replace

    return Tokenizer(tokenizer.backend, replace(tokenizer._settings, chat_template=template))


def test_a_template_without_tools_gets_them_as_text(tokenizer: Tokenizer) -> None:
    text = tokenizer.decode(build_prompt(tokenizer, HISTORY, [TOOL]).ids)
    assert "how it is outside" in text and R1.open + "weather" in text and "sunny" in text


def test_what_a_tool_says_cannot_close_a_thought(tokenizer: Tokenizer) -> None:
    close = tokenizer.id_of("</think>")
    assert close not in build_prompt(tokenizer, HISTORY).ids


def test_thinking_off_closes_the_thought_whoever_opens_it(tokenizer: Tokenizer) -> None:
    opening = with_template(tokenizer, "{{ messages[0]['content'] }}<|Assistant|><think>\n")
    for made in (tokenizer, opening):
        for thinking in (None, True, False):
            prompt = build_prompt(made, HISTORY[:1], thinking=thinking)
            tail = made.decode(prompt.ids[-12:])
            assert prompt.opened == (made is opening and thinking is not False)
            assert ("</think>" in tail) == (thinking is False)
            assert tail.count("<think>") == (made is opening or thinking is False)


def test_pictures_and_missing_templates_are_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="image_url"):
        build_prompt(tokenizer, [{"role": "user", "content": [{"type": "image_url"}]}])
    with pytest.raises(UsageError, match="chat template"):
        build_prompt(with_template(tokenizer, None), HISTORY)  # type: ignore[arg-type]


def test_published_templates_render_thoughts_and_calls(tokenizer: Tokenizer, shared_data: Path) -> None:
    for path in sorted((shared_data / "chat_templates").glob("*.jinja")):
        if "gpt-oss" in path.name:
            continue
        made = with_template(tokenizer, path.read_text(encoding="utf-8"))
        text = made.decode(build_prompt(made, HISTORY, [TOOL]).ids)
        assert "weather" in text and "sunny" in text, path.name
