"""Loops are found and lists are not; the thought closes at its limits."""

from __future__ import annotations

from typing import Any

import pytest

from doran.engine.control import Token
from doran.serve.limits import Limits, find_loop
from doran.serve.reply import Piece, Plan, Reply
from doran.text.tokenizer import Tokenizer


def test_a_repeating_tail_is_a_loop_whatever_came_before() -> None:
    assert find_loop([*range(100), *[1, 2, 3] * 40]) == 3
    assert find_loop([7] * 96) == 1
    assert find_loop(list(range(64)) * 6) == 64


def test_short_or_changing_repetition_is_none() -> None:
    assert find_loop([7] * 95) is None
    assert find_loop(list(range(64)) * 5) is None
    assert find_loop([x for i in range(60) for x in (1, 2, 100 + i)]) is None  # a list whose lines differ


def play(tokenizer: Tokenizer, text: str, **given: Any) -> tuple[Reply, dict[str, str]]:
    """Feeds a text as a model would that obeys vetoes of a single token."""
    pieces: list[Piece] = []
    reply = Reply(Plan(tokenizer, tokenizer.vocab_size, opened=True, **given), pieces.append)
    tokens = tokenizer.encode(text, specials=True)
    while tokens and reply.ending is None:
        mask = reply.veto(tokens[0])
        reply.watch(Token(tokens.pop(0) if mask is None else int(mask.nonzero()[0, 0]), 0.0))
    reply.finish("length")
    return reply, {k: "".join(p.text for p in pieces if p.kind == k) for k in ("reasoning", "answer")}


def test_the_budget_closes_the_thought_and_nothing_is_lost(tokenizer: Tokenizer) -> None:
    text = "하나 둘 셋 넷 다섯 여섯"
    for budget in range(12):
        reply, got = play(tokenizer, text, limits=Limits(thought_tokens=budget))
        assert reply.closed_by == "tokens" and got["reasoning"] + got["answer"] == text
        assert "\ufffd" not in got["reasoning"]  # a syllable of several tokens is finished first
        assert budget <= reply.reasoning_tokens <= budget + 9


def test_seconds_close_the_thought_at_their_share(tokenizer: Tokenizer) -> None:
    now = iter(range(1000))
    limits = Limits(seconds=20, clock=lambda: float(next(now)))
    reply, got = play(tokenizer, "3 + 4 = 7 " * 4, limits=limits)
    assert reply.closed_by == "seconds" and reply.ending == "seconds" and got["answer"]


@pytest.mark.parametrize("guard", [True, False])
def test_a_loop_in_the_thought_is_closed_where_the_guard_is_on(tokenizer: Tokenizer, guard: bool) -> None:
    reply, got = play(tokenizer, "7 8 " * 200, limits=Limits(loop_guard=guard))
    assert reply.closed_by == ("loop" if guard else None) and bool(got["answer"]) == guard
