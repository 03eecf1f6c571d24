"""Thought and answer: a reply split at `<think>` and `</think>`, whole (`split_thought`) or in a stream.

One rule for both: outside a thought `<think>` opens one, inside a thought `</think>` closes it, and a tag in any other
place is ordinary text, so nothing a model writes is lost but the tags that did their work. Texts are not stripped.
Not here: rewards (tasks/format.py) and what an answer means (tasks).
"""
from __future__ import annotations

from typing import Literal, NamedTuple

OPEN, CLOSE = "<think>", "</think>"
Kind = Literal["reasoning", "answer"]


class Parsed(NamedTuple):
    """A reply taken apart. Several thoughts, or answers around them, are joined in order."""

    reasoning: str
    answer: str
    well_formed: bool


def split_thought(text: str, opened: bool = False) -> Parsed:
    """Split a reply; `opened=True` where the chat template itself wrote `<think>` at the end of the prompt.

    Without tags all is answer; an unclosed thought leaves nothing after it. `well_formed`: exactly one opening tag (the
    template's counts) with nothing but blanks before it, exactly one closing tag after it, and text within and behind.
    """
    parts: dict[Kind, str] = {"reasoning": "", "answer": ""}
    inside, rest, tag = opened, text, "start"
    while tag:
        piece, tag, rest = rest.partition(CLOSE if inside else OPEN)
        parts["reasoning" if inside else "answer"] += piece
        inside = not inside
    return Parsed(parts["reasoning"], parts["answer"], _well_formed(text, opened))


def _well_formed(text: str, opened: bool) -> bool:
    whole = OPEN + text if opened else text.lstrip()
    if whole.count(OPEN) != 1 or whole.count(CLOSE) != 1 or not whole.startswith(OPEN):
        return False
    thought, _, answer = whole.removeprefix(OPEN).partition(CLOSE)
    return bool(thought.strip() and answer.strip())


def opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought (R1-Distill's template ends with `<think>` and a newline)."""
    return prompt.rstrip().endswith(OPEN)


class StreamSplitter:
    """The same split on pieces of text: all parts of a kind joined, `close()` included, equal `split_thought`'s."""

    def __init__(self, opened: bool = False) -> None:
        self._inside, self._held = opened, ""

    @property
    def inside(self) -> bool:
        """Is the text inside a thought now?"""
        return self._inside

    @property
    def pending(self) -> bool:
        """Is a tail held back that may yet become a tag?"""
        return bool(self._held)

    def feed(self, piece: str) -> list[tuple[Kind, str]]:
        """The parts that are certain now; the tail that may yet become a tag is held back."""
        out: list[tuple[Kind, str]] = []
        self._held += piece
        while True:
            awaited = CLOSE if self._inside else OPEN
            before, tag, after = self._held.partition(awaited)
            if not tag:
                break
            out += self._part(before)
            self._held, self._inside = after, not self._inside
        keep = next(n for n in range(len(awaited) - 1, -1, -1) if self._held.endswith(awaited[:n]))
        certain, self._held = self._held[: len(self._held) - keep], awaited[:keep]
        return out + self._part(certain)

    def close(self) -> list[tuple[Kind, str]]:
        """The held tail, which is text after all."""
        held, self._held = self._held, ""
        return self._part(held)

    def _part(self, text: str) -> list[tuple[Kind, str]]:
        return [("reasoning" if self._inside else "answer", text)] if text else []
