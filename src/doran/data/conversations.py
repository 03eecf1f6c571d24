"""Conversations for SFT: rows checked and made into token ids with a loss on what the assistant wrote, on nothing else.

A row holds `messages`, or `prompt` with `completion` or `answer` (text, or lists of messages as in TRL).
A reply is encoded apart from its prompt, as when the model writes it. Its loss covers the text and the token that ends
the turn. Not here: packing (packing.py), choosing rows (tasks), chat templates (text/chat.py).
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from doran.base.errors import ConfigError
from doran.data.rows import Row, missing, read_rows
from doran.text.parse import CLOSE, OPEN, opens_thought
from doran.text.tokenizer import Tokenizer

Message = Mapping[str, Any]
ROLES = ("system", "user", "assistant", "tool")
_PROBE = "0probe0"


class Example(NamedTuple):
    """Token ids and, equally long, whether each is to be learned."""

    ids: list[int]
    loss_mask: list[bool]


def read_conversations(path: str | Path, rename: Mapping[str, str] | None = None) -> Iterator[list[Message]]:
    """Conversations of a JSONL or Parquet file; `rename={"question": "prompt"}` reads other field names."""
    return map(to_messages, read_rows(path, rename))


def to_messages(row: Row) -> list[Message]:
    """The messages of a row. DataError: file, line, what is missing, and the mend."""
    value = row.value
    if value.get("messages") is not None:
        messages = value["messages"]
    elif value.get("prompt") is not None:
        reply = next((value[key] for key in ("completion", "answer") if value.get(key) is not None), None)
        if reply is None:
            raise missing(row, "a 'prompt' without 'answer' or 'completion'", "add one of the two to the row")
        messages = _as_messages(value["prompt"], "user") + _as_messages(reply, "assistant")
    else:
        hint = 'rename the fields, or write {"prompt": ..., "answer": ...}'
        raise missing(row, "neither 'messages' nor 'prompt'", hint)
    _check(row, messages)
    return messages


def _as_messages(value: Any, role: str) -> list[Any]:
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def _check(row: Row, messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise missing(row, "'messages' is not a list of messages", 'write [{"role": "user", "content": "..."}, ...]')
    for number, message in enumerate(messages, 1):
        place = f"message {number}"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise missing(row, f"{place} has no known role", f"use one of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            raise missing(row, f"{place} ({message['role']}) has no text in 'content'", "give it a string")
    if not any(message["role"] == "assistant" for message in messages):
        raise missing(row, "no assistant message to learn from", "add the reply")


def to_examples(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None
) -> list[Example]:
    """Every assistant turn learned once, each after exactly the prompt the chat template would give the model there.

    One example where the template repeats earlier turns as they were learned. Templates that drop earlier thoughts
    (R1, Qwen3, ours) do not: then the turn starts a new example, with the shortened history as its prompt.
    """
    examples: list[Example] = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = tokenizer.encode_chat(messages[:place], tools=tools)
        reply = tokenizer.encode(_reply(tokenizer, messages[: place + 1], tools), specials=True)
        learned: list[bool] = []
        if examples and prompt[: len(examples[-1].ids)] == examples[-1].ids:
            learned = examples.pop().loss_mask
        mask = learned + [False] * (len(prompt) - len(learned)) + [True] * len(reply)
        examples.append(Example(prompt + reply, mask))
    return examples


def _reply(tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> str:
    """What the model should write as the last of `messages`, the token that ends its turn included."""
    history, message = messages[:-1], messages[-1]
    prompt = tokenizer.apply_chat(history, tools=tools)
    if message.get("tool_calls"):
        return _rendered_after(tokenizer, prompt, messages, tools)
    thought, content = message.get("reasoning_content"), message["content"]
    if thought and OPEN not in content:
        content = f"{OPEN}\n{thought.strip()}\n{CLOSE}\n\n{content}"
    if opens_thought(prompt):  # the template wrote the opening tag; a reply without a thought closes it at once
        if content.lstrip().startswith(OPEN):
            content = content.lstrip().removeprefix(OPEN).lstrip("\n")
        elif CLOSE not in content:
            content = f"\n{CLOSE}\n\n{content}"
    return content + end_of_turn(tokenizer, history, tools)


def end_of_turn(
    tokenizer: Tokenizer, history: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None
) -> str:
    """What the chat template writes behind a reply to `history`."""
    probe = tokenizer.apply_chat([*history, {"role": "assistant", "content": _PROBE}], False, tools)
    return _turn_end(tokenizer, probe.rpartition(_PROBE)[2])


def _rendered_after(
    tokenizer: Tokenizer, prompt: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None
) -> str:
    """How the template itself writes tool calls, since each family has its own form."""
    text = tokenizer.apply_chat(messages, False, tools)
    if not text.startswith(prompt):
        raise ConfigError("the chat template's tool calls do not follow its own prompt", hint="drop those rows")
    body = text.removeprefix(prompt)
    ends = [body.rfind(token) + len(token) for token in tokenizer.control_tokens if token in body]
    return body[: max(ends, default=len(body))]


def _turn_end(tokenizer: Tokenizer, after: str) -> str:
    """The first control token the template puts behind a reply (blanks before it included), else the end token."""
    found = [(after.find(token), token) for token in tokenizer.control_tokens if token in after]
    if found:
        at, token = min(found, key=lambda pair: (pair[0], -len(pair[1])))
        return after[:at] + token
    if tokenizer.eos_id is None:
        raise ConfigError("neither the chat template nor the tokenizer says how a turn ends", hint="set eos_token")
    return tokenizer.decode([tokenizer.eos_id])
