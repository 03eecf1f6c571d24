"""The suite passes on the parser and on the whole way a reply takes, and it notices a bad parser."""

from __future__ import annotations

import re
from collections.abc import Iterator

from doran.engine.control import Token
from doran.serve.conformance import SAMPLES, check
from doran.serve.reply import Piece, Plan, Reply
from doran.text.parse import StreamSplitter, split_thought
from doran.text.tokenizer import Tokenizer


def test_the_stream_splitter_and_the_whole_split_agree_with_the_samples() -> None:
    assert check(StreamSplitter) == []
    for s in SAMPLES:
        assert split_thought(s.text, s.opened)[:2] == (s.reasoning, s.answer)


class Naive:
    """Looks for tags in each piece alone, as servers that lose them do."""

    def __init__(self, opened: bool) -> None:
        self.inside = opened

    def feed(self, piece: str) -> Iterator[tuple[str, str]]:
        for part in re.split("(</?think>)", piece):
            if part in ("<think>", "</think>"):
                self.inside = part == "<think>"
            elif part:
                yield ("reasoning" if self.inside else "answer"), part

    def close(self) -> list[tuple[str, str]]:
        return []


def test_a_parser_that_looks_at_single_pieces_is_found_out() -> None:
    assert len(check(Naive)) > 5


def test_replies_of_tokens_come_apart_as_the_samples_say(tokenizer: Tokenizer) -> None:
    for specials in (True, False):  # tags as single tokens, and as ordinary text
        for sample in SAMPLES:
            pieces: list[Piece] = []
            reply = Reply(Plan(tokenizer, tokenizer.vocab_size, opened=sample.opened), pieces.append)
            for token in tokenizer.encode(sample.text, specials=specials):
                assert reply.veto(token) is None
                reply.watch(Token(token, 0.0))
            reply.finish("length")
            got = {kind: "".join(p.text for p in pieces if p.kind == kind) for kind in ("reasoning", "answer")}
            assert got == {"reasoning": sample.reasoning, "answer": sample.answer}, sample
