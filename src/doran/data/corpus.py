"""A corpus in memory: the ids of many documents in one array, and an endless shuffled walk over them that can resume.

T all ids of the corpus. Not here: reading files (texts.py, conversations.py), mixing (mix.py), packing (packing.py).
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from doran.base.errors import DataError
from doran.base.rng import numpy_rng
from doran.text.tokenizer import Tokenizer

State = dict[str, Any]  # JSON-able


class Document(NamedTuple):
    """Ids of one document and which of them are to be learned (None: all)."""

    ids: NDArray[np.int32]
    learn: NDArray[np.bool_] | None = None


class Stream(Protocol):
    """Documents one after another, from a position that can be written down and taken up again."""

    def next(self) -> Document:
        """The next document. StopIteration where the stream is finite and at its end."""

    def state(self) -> State:
        """The position, small and JSON-able."""

    def load_state(self, state: State) -> None:
        """Go to a position. DataError where the data is not the data that the position was taken from."""


class Corpus(Sequence[Document]):
    """Documents end to end: 4 bytes a token (5 with a loss mask), however many documents there are."""

    def __init__(self, documents: Iterable[Sequence[int]], masks: Iterable[Sequence[bool]] | None = None) -> None:
        arrays = [np.asarray(ids, dtype=np.int32) for ids in documents]
        self._bounds = np.cumsum([0, *map(len, arrays)])
        self._ids_T = np.concatenate(arrays) if arrays else np.zeros(0, np.int32)
        self._learn_T = None if masks is None else np.concatenate([np.asarray(mask, dtype=np.bool_) for mask in masks])
        assert self._learn_T is None or len(self._learn_T) == len(self._ids_T)

    @classmethod
    def from_texts(cls, tokenizer: Tokenizer, texts: Iterable[str], specials: bool = False) -> Corpus:
        """Each text between begin and end token (where there are such). `specials=True`: for our own texts only."""
        start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        stop = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        rest = iter(texts)
        chunks = iter(lambda: list(islice(rest, 1024)), [])
        return cls(start + ids + stop for chunk in chunks for ids in tokenizer.encode_batch(chunk, specials))

    @classmethod
    def from_examples(cls, examples: Iterable[tuple[Sequence[int], Sequence[bool]]]) -> Corpus:
        """From (ids, loss_mask) pairs, as `conversations.to_examples` gives them."""
        pairs = list(examples)
        return cls((ids for ids, _ in pairs), [mask for _, mask in pairs] or None)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> Document:  # type: ignore[override]  # no slices: nobody needs them
        if not 0 <= index < len(self):
            raise IndexError(index)
        span = slice(self._bounds[index], self._bounds[index + 1])
        return Document(self._ids_T[span], None if self._learn_T is None else self._learn_T[span])

    @property
    def num_tokens(self) -> int:
        """Ids in all documents together."""
        return len(self._ids_T)

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the content, so that a resumed run notices other data."""
        content = hashlib.sha256(self._ids_T.tobytes() + self._bounds.tobytes())
        if self._learn_T is not None:
            content.update(self._learn_T.tobytes())
        return content.hexdigest()[:16]


class Shuffled:
    """An endless walk over a corpus: every document once an epoch, in an order that (seed, name, epoch) decide."""

    def __init__(self, corpus: Corpus, seed: int, name: str = "corpus", epochs: int | None = None) -> None:
        if not len(corpus):
            raise DataError(f"{name}: no documents", hint="check the files and filters")
        self._corpus, self._key, self._epochs = corpus, (name, seed), epochs
        self._epoch, self._index = 0, 0
        self._order = self._permutation()

    def next(self) -> Document:
        """The next document; StopIteration after `epochs` passes, if that was given."""
        if self._index == len(self._corpus):
            if self._epoch + 1 == self._epochs:
                raise StopIteration
            self._epoch, self._index = self._epoch + 1, 0
            self._order = self._permutation()
        self._index += 1
        return self._corpus[int(self._order[self._index - 1])]

    def state(self) -> State:
        """Epoch, place in it, and the corpus's digest."""
        return {"epoch": self._epoch, "index": self._index, "digest": self._corpus.digest}

    def load_state(self, state: State) -> None:
        """Go to a position; DataError where the corpus has changed since."""
        if state["digest"] != self._corpus.digest:
            raise DataError(
                f"{self._key[0]}: the data is not what the run began with", hint="restore the data, or start a new run"
            )
        self._epoch, self._index = state["epoch"], state["index"]
        self._order = self._permutation()

    def _permutation(self) -> NDArray[np.int64]:
        return numpy_rng("shuffle", *self._key, self._epoch).permutation(len(self._corpus))
