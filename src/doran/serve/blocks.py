"""A reply as blocks one after another: thought, text, tool call. What /v1/responses and /v1/messages are made of."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from doran.serve.generation import Done, Generation

BlockKind = Literal["reasoning", "answer", "call"]


@dataclass
class Block:
    """One block; of a call, `text` is its arguments and `id` a new name."""

    index: int
    kind: BlockKind
    name: str = ""
    text: str = ""
    id: str = field(default_factory=lambda: secrets.token_hex(12))


class Change(NamedTuple):
    """What happens to a block: it starts, grows by `text`, or stops."""

    what: Literal["start", "delta", "stop"]
    block: Block
    text: str = ""


async def blocks(generation: Generation, with_thought: bool = True) -> AsyncIterator[Change | Done]:
    """The changes of a single reply's blocks, then its Done. Text that is nothing but blanks makes no block."""
    current: Block | None = None
    count, blanks = 0, ""
    async with generation:
        async for _, event in generation:
            if isinstance(event, Done):
                if current:
                    yield Change("stop", current)
                yield event
                return
            if event.kind == "reasoning" and not with_thought:
                continue
            kind: BlockKind = "call" if event.kind == "arguments" else event.kind
            starts = event.kind == "call" or current is None or current.kind != kind
            text = "" if event.kind == "call" else event.text
            if starts:
                blanks += text
                if event.kind != "call" and not blanks.strip():
                    continue
                if current:
                    yield Change("stop", current)
                current = Block(count, kind, event.text if event.kind == "call" else "")
                text, blanks, count = "" if kind == "call" else blanks, "", count + 1
                yield Change("start", current)
            assert current
            if text:
                current.text += text
                yield Change("delta", current, text)


async def whole(generation: Generation, with_thought: bool = True) -> tuple[list[Block], Done]:
    """All blocks, and how the reply ended."""
    found: list[Block] = []
    async for change in blocks(generation, with_thought):
        if isinstance(change, Done):
            return found, change
        if change.what == "start":
            found.append(change.block)
    raise AssertionError("a generation ends with a Done")
