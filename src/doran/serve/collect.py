"""Replies gathered whole, and the vote among several: cons@k, stopped as soon as it is decided.

The vote compares answers as text: what `\\boxed{}`, "Answer:" and the like state, else the whole answer, blanks and
case aside. Not here: what an answer means.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from doran.engine.control import Token
from doran.serve.generation import Done, Generation
from doran.serve.reply import Piece
from doran.tasks.answer import stated, unwrap


@dataclass
class Call:
    """One tool call."""

    name: str
    arguments: str = ""


@dataclass
class Collected:
    """One choice, whole. `tokens`: those of the answer, where logprobs were asked for."""

    reasoning: str = ""
    answer: str = ""
    calls: list[Call] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    done: Done | None = None

    def add(self, event: Piece | Done) -> None:
        """Take in one event."""
        if isinstance(event, Done):
            self.done = event
            return
        self.tokens += event.tokens
        if event.kind == "reasoning":
            self.reasoning += event.text
        elif event.kind == "answer":
            self.answer += event.text
        elif event.kind == "call":
            self.calls.append(Call(event.text))
        else:
            self.calls[event.call].arguments += event.text


@dataclass
class Vote:
    """How a vote went: answers with their counts, of `asked` replies, `heard` before it was decided."""

    counts: dict[str, int]
    asked: int
    heard: int
    tokens: int
    reasoning_tokens: int


async def collect(generation: Generation) -> list[Collected]:
    """All choices, whole. Raises the error of a choice that failed."""
    choices = [Collected() for _ in range(generation.job.n)]
    async with generation:
        async for index, event in generation:
            choices[index].add(event)
    return choices


async def vote(generation: Generation) -> tuple[Collected, Vote]:
    """The likeliest reply among those with the most frequent answer. The rest is ended when it can change no more."""
    choices = [Collected() for _ in range(generation.job.n)]
    ballots: dict[int, str] = {}
    decided = False
    async with generation:
        async for index, event in generation:
            choices[index].add(event)
            if not isinstance(event, Done):
                continue
            if not decided and event.ending != "abort":
                ballots[index] = ballot(choices[index].answer)
                decided = is_decided(Counter(filter(None, ballots.values())), generation.job.n - len(ballots))
                if decided:
                    generation.abort()
    counts = Counter(filter(None, ballots.values()))
    best = counts.most_common(1)[0][0] if counts else ""
    backers = [choices[i] for i, answer in ballots.items() if answer == best] or choices
    winner = max(backers, key=lambda c: c.done.mean_logprob if c.done else 0.0)
    ended = [c.done for c in choices if c.done]
    spent = sum(d.tokens for d in ended), sum(d.reasoning_tokens for d in ended)
    return winner, Vote(dict(counts), generation.job.n, len(ballots), *spent)


def is_decided(counts: Counter[str], remaining: int) -> bool:
    """Can `remaining` more ballots no longer change who leads?"""
    if not counts:
        return False
    ranked = [count for _, count in counts.most_common(2)] + [0]
    return ranked[0] > ranked[1] + remaining


def ballot(answer: str) -> str:
    """What a reply votes for; empty where it has no answer."""
    found = stated(answer)
    text = unwrap(found.last if found else answer)
    return re.sub(r"\s+", "", text).casefold()
