"""Packing: documents laid end to end into packs of at most `tokens` tokens, with their borders, targets and positions.

T tokens of a pack, D documents (or parts of them) in it. Attention stays inside the borders (`cu_seqlens`), so nothing
is padded and nothing leaks. Greedy: a document that no longer fits closes the pack and opens the next. What that leaves
empty is reported (`wasted`): about half a document's length per pack.
A document of n ids takes n - 1 places, since its last id is only a target. One longer than `window` is cut into parts
that overlap by one id: every id but the first is still a target once, but later parts lack their past. Cuts are
counted.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from doran.base.errors import ConfigError, DataError
from doran.data.corpus import Document, State, Stream

IGNORE = -100  # torch's own default for "no loss here"


@dataclass(frozen=True)
class Pack:
    """Tokens, positions (from 0 in each part), targets (IGNORE: no loss): int64; cu_seqlens, D+1 borders: int32."""

    tokens_T: Tensor
    positions_T: Tensor
    targets_T: Tensor
    cu_seqlens: Tensor


@dataclass
class Counts:
    """What has been packed so far."""

    packs: int = 0
    places: int = 0  # tokens in those packs
    documents: int = 0
    cut: int = 0  # documents longer than the window
    dropped: int = 0  # documents with fewer than two ids, or nothing to learn


class Packer:
    """An iterator of Packs over a stream of documents. It resumes exactly, from `state()` or by `skip(n)`."""

    def __init__(self, stream: Stream, tokens: int, window: int | None = None) -> None:
        self._stream, self._tokens, self._window = stream, tokens, window or tokens
        if not 1 <= self._window <= tokens:
            raise ConfigError(f"packing: window {window} with packs of {tokens} tokens", hint="a window must fit in")
        self.counts = Counts()
        self._before = stream.state()  # the stream's position before the current document
        self._parts: list[Document] = []  # of the current document
        self._used = 0  # how many of them are packed

    def __iter__(self) -> Iterator[Pack]:
        return self

    def __next__(self) -> Pack:
        return _pack(self._take())

    def skip(self, packs: int) -> Packer:
        """Pass over packs without building them; the same stream then goes on as if they had been read."""
        for _ in range(packs):
            self._take()
        return self

    @property
    def wasted(self) -> float:
        """Share of the places in all packs so far that stayed empty."""
        return 1 - self.counts.places / (self.counts.packs * self._tokens) if self.counts.packs else 0.0

    def state(self) -> State:
        """The position after the last pack: small, JSON-able, whatever the length of the current document."""
        used = self._used if self._parts else None
        return {"stream": self._before, "used": used, "counts": asdict(self.counts)}

    def load_state(self, state: State) -> None:
        """Go to a position. DataError where the data is not the data that it was taken from."""
        self._stream.load_state(state["stream"])
        self._before, self._parts, self._used = state["stream"], [], 0
        if state["used"] is not None:
            self._open_document()
            self._used = state["used"]
        self.counts = Counts(**state["counts"])

    def _take(self) -> list[Document]:
        """The parts of the next pack. StopIteration when the stream is at its end and all of it is packed."""
        taken: list[Document] = []
        room = self._tokens
        while True:
            while self._used == len(self._parts):
                try:
                    self._open_document()
                except StopIteration:
                    if not taken:
                        raise
                    return self._close(taken)
            part = self._parts[self._used]
            if len(part.ids) - 1 > room:
                return self._close(taken)
            taken.append(part)
            room -= len(part.ids) - 1
            self._used += 1

    def _close(self, taken: list[Document]) -> list[Document]:
        self.counts.packs += 1
        self.counts.places += sum(len(part.ids) - 1 for part in taken)
        return taken

    def _open_document(self) -> None:
        self._before, self._used, self._parts = self._stream.state(), 0, []
        ids, learn = self._stream.next()
        self.counts.documents += 1
        if len(ids) < 2 or (learn is not None and not learn[1:].any()):
            self.counts.dropped += 1
            self._refuse_a_stream_of_nothing()
            return
        self.counts.cut += len(ids) - 1 > self._window
        for start in range(0, len(ids) - 1, self._window):
            span = slice(start, start + self._window + 1)
            self._parts.append(Document(ids[span], None if learn is None else learn[span]))

    def _refuse_a_stream_of_nothing(self) -> None:
        if self.counts.dropped == self.counts.documents >= 10_000:
            raise DataError("packing: none of the first 10,000 documents has a token to learn", hint="check the data")


def _pack(parts: list[Document]) -> Pack:
    lengths = [len(part.ids) - 1 for part in parts]
    return Pack(
        tokens_T=_int64([part.ids[:-1] for part in parts]),
        positions_T=_int64([np.arange(length) for length in lengths]),
        targets_T=_int64([_targets(part) for part in parts]),
        cu_seqlens=torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)),
    )


def _targets(part: Document) -> NDArray[np.int32]:
    following = part.ids[1:]
    return following if part.learn is None else np.where(part.learn[1:], following, np.int32(IGNORE))


def _int64(arrays: Iterable[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.concatenate(list(arrays)).astype(np.int64))
