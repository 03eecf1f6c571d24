"""The language guard: keeps a text in one script while it is decoded. Knows bytes and letters, not meaning.

`ko`: Hangul, and single Latin letters (x, y, A) and LaTeX commands, as mathematics needs; `en`: Latin letters. Both:
Greek letters, digits, signs, emoji. A letter of any other script is a leak, and so is a Latin word in Korean text.
French is Latin too: this is a guard of scripts.

A token is judged by its bytes in the place where it would stand, so that a syllable that is cut into three tokens is
kept or refused as a whole; broken UTF-8 is refused as well. Legend: V vocab_size.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from doran.text.detok import token_bytes
from doran.text.tokenizer import Tokenizer

Language = Literal["ko", "en"]
Context = Literal["", "letter", "command"]  # what stands before: nothing special, one Latin letter, \ and its letters
LATIN, HANGUL, GREEK = "LATIN", "HANGUL", "GREEK"


class Place(NamedTuple):
    """Where the next byte goes."""

    context: Context = ""
    pending: bytes = b""  # the first bytes of a character


def script(char: str) -> str | None:
    """The script of a letter or of what combines with it; None for what belongs to all (digits, signs)."""
    if char.isascii():
        return LATIN if char.isalpha() else None
    if char == "\ufffd":
        return "BROKEN"
    if unicodedata.category(char)[0] not in "LM" or char in "\ufe0e\ufe0f":
        return None
    name = unicodedata.name(char, "OTHER").split()
    return next((s for s in (LATIN, HANGUL, GREEK) if s in name), name[0])


def step(language: Language, context: Context, char: str) -> Context | None:
    """The context after `char`; None where it leaks."""
    kind = script(char)
    if kind == LATIN and language == "ko":
        return "command" if context == "command" else None if context == "letter" else "letter"
    if kind in (LATIN, GREEK) or kind == HANGUL and language == "ko":
        return ""
    return None if kind else "command" if char == "\\" else ""


def leaks(text: str, language: Language) -> int:
    """How many characters of `text` leak; the slow reference of the guard."""
    count, context = 0, ""
    for char in text:
        after = step(language, context, char)  # type: ignore[arg-type]
        count, context = count + (after is None), after if after is not None else context
    return count


class Guard:
    """Judges tokens for one language; shared by all requests. Thread safe but for double work."""

    def __init__(self, tokenizer: Tokenizer, language: Language, vocab_size: int, stop_ids: Collection[int]) -> None:
        """`stop_ids` never leak; other control tokens are judged as the text that they are shown as."""
        self.language, self._size, self._stops = language, vocab_size, frozenset(stop_ids)
        names = ((i, tokenizer.backend.id_to_token(i)) for i in range(tokenizer.vocab_size))
        self._bytes = {i: token_bytes(name) for i, name in names if name is not None and i not in self._stops}
        self._going_on = [i for i, b in self._bytes.items() if b and 0x80 <= b[0] < 0xC0]
        self._masks: dict[Place, Tensor] = {}

    def after(self, place: Place, token: int) -> Place | None:
        """The place after `token`; None where it leaks. Stop tokens do only inside a character."""
        data = self._bytes.get(token)
        if data is not None:
            return self._after(place, data)
        return Place() if token in self._stops and not place.pending else None

    def allowed(self, place: Place) -> Tensor:
        """The tokens that do not leak there, as a bool mask (V); made at first use and kept."""
        if place not in self._masks:
            candidates: Iterable[int] = self._going_on if place.pending else self._bytes
            ids = [i for i in candidates if self._after(place, self._bytes[i]) is not None]
            mask_V = torch.zeros(self._size, dtype=torch.bool)
            mask_V[torch.tensor(ids if place.pending else [*ids, *self._stops], dtype=torch.long)] = True
            self._masks[place] = mask_V
        return self._masks[place]

    def _after(self, place: Place, data: bytes) -> Place | None:
        context: Context | None = place.context
        data = place.pending + data
        at = 0
        while at < len(data):
            width = _width(data[at])
            piece = data[at : at + width]
            if width == 0 or not _reachable(self.language, context or "", piece):
                return None
            if len(piece) < width:
                return Place(context or "", piece)
            context = step(self.language, context or "", piece.decode("utf-8"))
            if context is None:
                return None
            at += width
        return Place(context or "")


def _width(first: int) -> int:
    """Bytes of the character that starts so; 0: none does."""
    if first < 0x80:
        return 1
    if not 0xC2 <= first < 0xF5:
        return 0
    return 2 if first < 0xE0 else 3 if first < 0xF0 else 4


@cache
def _kinds() -> np.ndarray:
    """Of every code point: 0 belongs to all, 1 Latin, 2 Hangul, 3 Greek, 4 another script or no character."""
    number = {None: 0, LATIN: 1, HANGUL: 2, GREEK: 3}
    kinds = np.zeros(0x110000, dtype=np.int8)
    for c in (*range(0x32400), *range(0xE0000, 0xE0200)):  # no letters stand elsewhere
        kinds[c] = 4 if 0xD800 <= c < 0xE000 else number.get(script(chr(c)), 4)
    return kinds


@cache
def _passes(language: Language, context: Context) -> np.ndarray:
    """For every code point c: how many below c pass in that context."""
    latin = language == "en" or context != "letter"
    passing = np.array([True, latin, language == "ko", True, False])[_kinds()]
    return np.concatenate([[0], passing.cumsum()])


def _reachable(language: Language, context: Context, piece: bytes) -> bool:
    """Can bytes that start with `piece` be a character that passes?"""
    width = _width(piece[0])
    if any(not 0x80 <= b < 0xC0 for b in piece[1:]):
        return False
    low = high = piece[0] & (0x7F >> (width if width > 1 else 0))
    for i in range(1, width):
        low = low << 6 | (piece[i] & 0x3F if i < len(piece) else 0)
        high = high << 6 | (piece[i] & 0x3F if i < len(piece) else 0x3F)
    low, high = max(low, (0, 0, 0x80, 0x800, 0x10000)[width]), min(high, 0x10FFFF)  # no overlong spellings
    counts = _passes(language, context)
    return low <= high and bool(counts[high + 1] > counts[low])
