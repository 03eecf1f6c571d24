"""Preference pairs: a prompt and two replies, of which somebody preferred the first. Rows checked, texts untouched.

A row holds `prompt`, `chosen`, `rejected`: text, or lists of messages as in TRL; without `prompt`, two conversations
that differ in their last message. Not here: tokens, and which part of a reply is judged (train/preference.py).
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from doran.data.conversations import ROLES
from doran.data.rows import Row, missing, read_rows

Messages = list[Mapping[str, Any]]


class Pair(NamedTuple):
    """What was asked (a conversation that ends before the reply) and the two replies."""

    prompt: Messages
    chosen: str
    rejected: str

    def held_out(self, share: float) -> bool:
        """Does this prompt belong to the part that is only measured? The same prompt always does, in any file."""
        text = json.dumps([[m["role"], m["content"]] for m in self.prompt], ensure_ascii=False)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < share * 2**64


def read_pairs(path: str | Path, rename: Mapping[str, str] | None = None) -> Iterator[Pair]:
    """Pairs of a JSONL or Parquet file. DataError: file, line, what is missing, and the mend."""
    return map(to_pair, read_rows(path, rename))


def to_pair(row: Row) -> Pair:
    """The pair of a row."""
    for name in ("chosen", "rejected"):
        if not row.value.get(name):
            raise missing(row, f"no {name!r}", 'write {"prompt": ..., "chosen": ..., "rejected": ...}')
    prompt = _messages(row, "prompt", "user") if row.value.get("prompt") else []
    replies = [_messages(row, name, "assistant") for name in ("chosen", "rejected")]
    shared = [reply[:-1] for reply in replies]
    if shared[0] != shared[1]:
        raise missing(row, "'chosen' and 'rejected' differ before their last message", "cut both after the same prompt")
    prompt += shared[0]
    if not prompt:
        raise missing(row, "no 'prompt'", "say what was asked, or give whole conversations in both replies")
    for name, reply in zip(("chosen", "rejected"), replies, strict=True):
        if reply[-1]["role"] != "assistant":
            raise missing(row, f"{name!r} ends with a message of {reply[-1]['role']}", "end it with the assistant's")
    return Pair(prompt, replies[0][-1]["content"], replies[1][-1]["content"])


def _messages(row: Row, name: str, role: str) -> Messages:
    value = row.value[name]
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    good = isinstance(value, list) and all(
        isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str) for m in value
    )
    if not good or not value:
        raise missing(row, f"{name!r} is neither text nor messages", 'write text, or [{"role": ..., "content": ...}]')
    return [{"role": m["role"], "content": m["content"]} for m in value]
