"""A reply that reads several tokens at once is the reply that reads them one by one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from doran.engine.control import Token
from doran.serve.limits import Limits, find_loop
from doran.serve.reply import Piece, Plan, Reply
from doran.text.tokenizer import Tokenizer

PARTS = ["3 + 4 = 7", "도란", "<think>", "</think>", " the answer is", "<", "thi", "漢", "x", "\n", "think about"]


def played(plan: Plan, tokens: list[int], cuts: random.Random | None) -> tuple[Any, ...]:
    """What comes of tokens, drawn by a model that obeys vetoes of a single one; `cuts`: several are read at once."""
    pieces: list[Piece] = []
    reply, at, ended, one = Reply(plan, pieces.append), 0, False, True
    while at < len(tokens) and not ended:
        if cuts is None or one or reply.careful():
            mask = reply.veto(tokens[at])
            taken = tokens[at] if mask is None else int(mask.nonzero()[0, 0])
            ended, at, one = reply.watch(Token(taken, 0.0)), at + (mask is None), False
            continue
        some = tokens[at : at + cuts.randrange(1, 40)]
        stop = next((i for i, t in enumerate(some) if t in plan.stop_ids), len(some))
        kept, ended = reply.read(some[: stop + 1])
        at, one = at + kept, kept < len(some[: stop + 1])
    reply.finish("length")
    texts: list[list[Any]] = []
    for p in pieces:
        if texts and texts[-1][:2] == [p.kind, p.call]:
            texts[-1][2] += p.text
        else:
            texts.append([p.kind, p.call, p.text])
    return texts, reply.tokens, reply.reasoning_tokens, reply.ending, reply.closed_by, reply.stop_string


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize(
    "given",
    [{}, {"limits": Limits(thought_tokens=30)}, {"stop": ("answer", "7x")}, {"split": False}, {"may_think": False}],
)
def test_reading_several_tokens_is_reading_one_by_one(
    tokenizer: Tokenizer, given: dict[str, Any], opened: bool
) -> None:
    for seed in range(30):
        rng = random.Random(seed)
        text = "".join(rng.choices(PARTS, weights=[9, 9, 1, 1, 9, 1, 1, 9, 9, 9, 9], k=60))
        if seed % 3 == 0:
            text = text[:80] + "x y" * 150 + text[80:]  # a loop
        tokens = [i for part in text.split("|") for i in tokenizer.encode(part, specials=seed % 2 == 0)]
        if seed % 4 == 0:
            tokens.insert(rng.randrange(len(tokens)), tokenizer.eos_id or 0)
        plan = Plan(tokenizer, tokenizer.vocab_size, frozenset(tokenizer.stop_ids), opened=opened, **given)
        assert played(plan, tokens, random.Random(seed)) == played(plan, tokens, None), (seed, text)


def test_a_loop_is_found_where_the_obvious_search_finds_it() -> None:
    rng = random.Random(0)
    for _ in range(300):
        unit = [rng.randrange(3) for _ in range(rng.randrange(1, 70))]
        tokens = [rng.randrange(3) for _ in range(rng.randrange(40))] + unit * rng.randrange(1, 9)
        end = rng.randrange(len(tokens) + 1)
        spans = ((p, max(96, 6 * p)) for p in range(1, 65))
        tail = tokens[:end]
        obvious = (p for p, n in spans if n <= end and all(tail[-i] == tail[-i - p] for i in range(1, n - p + 1)))
        assert find_loop(tokens, end=end) == next(obvious, None)
