"""Samples of replies with thoughts, and a check that a parser takes every one apart alike however it is cut.

A parser is anything with `feed(piece) -> [(kind, text)]` and `close() -> [(kind, text)]`, kinds "reasoning" and
"answer"; `bench/parser_conformance.py` points the check at another server's. Each sample is fed whole, one character at
a time and cut at every place and every pair of places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, pairwise
from typing import NamedTuple, Protocol


class Sample(NamedTuple):
    """`opened`: the chat template wrote `<think>` itself, so the text begins inside the thought."""

    text: str
    opened: bool
    reasoning: str
    answer: str


SAMPLES = (
    Sample("<think>a b</think>c", False, "a b", "c"),
    Sample("a b</think>c", True, "a b", "c"),
    Sample("\n\n<think>\n가나\n</think>\n\n답 7", False, "\n가나\n", "\n\n\n\n답 7"),
    Sample("가나\n</think>\n\n답", True, "가나\n", "\n\n답"),
    Sample("no tag at all", False, "", "no tag at all"),
    Sample("cut inside", True, "cut inside", ""),
    Sample("<think>cut ins", False, "cut ins", ""),
    Sample("<think></think>x", False, "", "x"),
    Sample("</think>x", True, "", "x"),
    Sample("a < b <thin k> </thin", False, "", "a < b <thin k> </thin"),
    Sample("<think>1 </ 2 </thi 3</think>4 <", False, "1 </ 2 </thi 3", "4 <"),
    Sample("<<think>>x</<</think>>y", False, ">x</<", "<>y"),
    Sample('<think>{"a": 1}</think>{"a": 2}', False, '{"a": 1}', '{"a": 2}'),
    Sample("x</think>y", False, "", "x</think>y"),
    Sample("<think>x<think>y</think>z", False, "x<think>y", "z"),
    Sample("", False, "", ""),
    Sample("", True, "", ""),
)


class Parser(Protocol):
    """What is tested."""

    def feed(self, piece: str) -> Iterable[tuple[str, str]]:
        """The parts that are certain now."""

    def close(self) -> Iterable[tuple[str, str]]:
        """The rest."""


def splits(text: str) -> Iterator[tuple[str, ...]]:
    """`text` whole, in characters, and cut at every place and every pair of places."""
    yield (text,)
    yield tuple(text)
    for places in (1, 2):
        for cuts in combinations(range(1, len(text)), places):
            yield tuple(text[a:b] for a, b in pairwise((0, *cuts, len(text))))


def check(make: Callable[[bool], Parser], samples: Iterable[Sample] = SAMPLES) -> list[str]:
    """What went wrong, one line for each sample that did; `make(opened)` gives a fresh parser."""
    wrong = []
    for sample in samples:
        for pieces in splits(sample.text):
            parser, got = make(sample.opened), {"reasoning": "", "answer": ""}
            for kind, text in [*(part for piece in pieces for part in parser.feed(piece)), *parser.close()]:
                got[kind] += text
            if (got["reasoning"], got["answer"]) != (sample.reasoning, sample.answer):
                wrong.append(f"{sample.text!r} as {pieces!r}: {got}")
                break
    return wrong
