"""Tool calls as text: R1's form and Hermes' (Qwen), written into grammars and read back piece by piece.

The grammar holds from the trigger on, so what is read back has exactly one form; the reader still loses no text if a
server without grammars feeds it anything else. Not here: prompts (prompt.py), JSON of an API (chat_api.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from doran.serve.structure import SPACING, Grammars


@dataclass(frozen=True)
class ToolFormat:
    """A call is: trigger, then `open` NAME `name_end` ARGUMENTS `close`, then `next` NAME ... for more, then `end`."""

    trigger: str
    open: str
    next: str
    name_end: str
    close: str
    end: str


R1_CALL = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
R1 = ToolFormat(
    "<｜tool▁calls▁begin｜>", R1_CALL, "\n" + R1_CALL, "\n```json\n", "\n```<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"
)
HERMES = ToolFormat(
    "<tool_call>", '\n{"name": "', '\n<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", ""
)


class Tool(NamedTuple):
    """A function the model may call; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any]


def format_of(template: str | None) -> ToolFormat:
    """The form that a chat template teaches."""
    return HERMES if template and HERMES.trigger in template else R1


def calls_grammar(grammars: Grammars, form: ToolFormat, tools: Sequence[Tool], parallel: bool, trigger: bool) -> str:
    """One call or more of `tools`, from behind the trigger on (`trigger=True`: the trigger too)."""
    rules = []
    for i, tool in enumerate(tools):
        schema = json.dumps({"type": "object", **tool.parameters, "x-guidance": SPACING}, ensure_ascii=False)
        start = f"{grammars.literal(tool.name + form.name_end)} %json {schema}"
        rules.append(f"call{i}: {start} {grammars.literal(form.close)}")
    calls = " | ".join(f"call{i}" for i in range(len(tools)))
    first = grammars.literal((form.trigger if trigger else "") + form.open)
    more = f"({grammars.literal(form.next)} call)*" if parallel else ""
    start = f"start: {first} call {more} {grammars.literal(form.end)}"
    return grammars.lark("\n".join([start, f"call: {calls}", *rules]))


class ToolPiece(NamedTuple):
    """A piece of an answer: text, the start of call `index` (text: its name), or arguments of it."""

    kind: Literal["answer", "call", "arguments"]
    text: str
    call: int = -1


class ToolReader:
    """Takes an answer apart into text and calls; fed in any pieces, the same parts come out."""

    def __init__(self, form: ToolFormat) -> None:
        self.form = form
        self.calls = 0
        self._state: Literal["text", "open", "name", "arguments", "between"] = "text"
        self._held = ""

    @property
    def inside(self) -> bool:
        """Has the trigger come?"""
        return self._state != "text"

    @property
    def behind_trigger(self) -> str:
        """What has come behind the trigger, while no call has begun."""
        return self._held if self._state == "open" else ""

    def feed(self, piece: str) -> list[ToolPiece]:
        """The parts that are certain now."""
        self._held += piece
        out: list[ToolPiece] = []
        while self._advance(out):
            pass
        return out

    def close(self) -> list[ToolPiece]:
        """The held tail."""
        held, self._held = self._held, ""
        if not held:
            return []
        if self._state == "text":
            return [ToolPiece("answer", held)]
        return [ToolPiece("arguments", held, self.calls - 1)] if self._state == "arguments" else []

    def _advance(self, out: list[ToolPiece]) -> bool:
        form = self.form
        if self._state == "text":
            return self._until(form.trigger, "open", "answer", out)
        if self._state == "arguments":
            return self._until(form.close, "between", "arguments", out)
        if self._state == "name":
            name, found, rest = self._held.partition(form.name_end)
            if found:
                out.append(ToolPiece("call", name, self.calls))
                self.calls += 1
                self._held, self._state = rest, "arguments"
            return bool(found)
        mark = form.open if self._state == "open" else form.next
        if self._held.startswith(mark):
            self._held, self._state = self._held[len(mark) :], "name"
            return True
        return False

    def _until(self, mark: str, then: Any, kind: Literal["answer", "arguments"], out: list[ToolPiece]) -> bool:
        text, found, rest = self._held.partition(mark)
        if not found:
            keep = next(n for n in range(len(mark) - 1, -1, -1) if self._held.endswith(mark[:n]))
            text, rest = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        if text:
            out.append(ToolPiece(kind, text, self.calls - 1 if kind == "arguments" else -1))
        self._held = rest
        if found:
            self._state = then
        return bool(found)


def describe(tools: Sequence[Tool], form: ToolFormat) -> str:
    """A system text that teaches the tools to a model whose template has no place for them."""
    lines = ["You may call these tools:"]
    for tool in tools:
        schema = json.dumps(tool.parameters, ensure_ascii=False)
        lines.append(f"- {tool.name}: {tool.description}\n  parameters: {schema}")
    example = f"{form.trigger}{form.open}NAME{form.name_end}{{ARGUMENTS}}{form.close}{form.end}"
    return "\n".join([*lines, f"To call one, write after your thought:\n{example}"])


def written(calls: Sequence[dict[str, Any]], form: ToolFormat) -> str:
    """Calls of an earlier turn as the model wrote them."""
    text = form.trigger
    for i, call in enumerate(calls):
        function = call["function"]
        text += (form.next if i else form.open) + function["name"] + form.name_end + function["arguments"] + form.close
    return text + form.end


TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
