from __future__ import annotations

import json
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doran.base.errors import ConfigError, DataError
from doran.data.corpus import Corpus, Shuffled
from doran.data.mix import Mixture
from doran.data.packing import IGNORE, Packer


def packer(documents, tokens, window=None, masks=None, epochs=1, seed=0) -> Packer:
    return Packer(Shuffled(Corpus(documents, masks), seed, epochs=epochs), tokens, window)


documents = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=40), min_size=1, max_size=12)


@given(documents, st.integers(1, 32), st.data())
def test_every_id_but_the_first_is_a_target_once_after_its_own_past(docs, tokens, data):
    window = data.draw(st.integers(1, tokens))
    docs = [[1000 * n + id for id in doc] for n, doc in enumerate(docs)]
    pairs = []
    packs = packer(docs, tokens, window)
    for pack in packs:
        assert 0 < len(pack.tokens_T) <= tokens
        bounds = pack.cu_seqlens.tolist()
        assert bounds[0] == 0 and bounds[-1] == len(pack.tokens_T) and pack.cu_seqlens.dtype == torch.int32
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
            assert 0 < stop - start <= window
            assert pack.positions_T[start:stop].tolist() == list(range(stop - start))
            assert pack.tokens_T[start + 1 : stop].tolist() == pack.targets_T[start : stop - 1].tolist()
        pairs += zip(pack.tokens_T.tolist(), pack.targets_T.tolist(), strict=True)
    assert sorted(pairs) == sorted(pair for doc in docs for pair in zip(doc[:-1], doc[1:], strict=True))
    assert packs.counts.documents == len(docs)
    assert packs.counts.cut == sum(len(doc) - 1 > window for doc in docs)
    assert packs.counts.dropped == sum(len(doc) < 2 for doc in docs)
    if packs.counts.packs:
        assert packs.wasted == pytest.approx(1 - len(pairs) / (packs.counts.packs * tokens))


def test_packs_by_hand():
    packs = packer([[1, 2, 3, 4]], tokens=4, masks=[[False, False, True, True]])
    (pack,) = packs
    assert pack.tokens_T.tolist() == [1, 2, 3] and pack.targets_T.tolist() == [IGNORE, 3, 4]
    assert pack.cu_seqlens.tolist() == [0, 3] and packs.wasted == 0.25


def same(a, b) -> bool:
    keys = ("tokens_T", "positions_T", "targets_T", "cu_seqlens")
    return all(torch.equal(getattr(a, key), getattr(b, key)) for key in keys)


@given(documents.filter(lambda docs: any(len(doc) > 1 for doc in docs)), st.integers(1, 32), st.integers(0, 9))
def test_state_and_skip_resume_exactly(docs, tokens, read):
    straight = packer(docs, tokens, epochs=3)
    for _ in islice(straight, read):
        pass
    again = packer(docs, tokens, epochs=3)
    again.load_state(json.loads(json.dumps(straight.state())))
    assert again.counts == straight.counts
    rest = list(straight)
    resumed = list(again)
    assert len(rest) == len(resumed) and all(map(same, rest, resumed))
    assert again.counts == straight.counts and again.state() == straight.state()
    total = straight.counts.packs
    if read < total:
        assert all(map(same, packer(docs, tokens, epochs=3).skip(read), rest))


def test_a_mixture_packs_and_resumes():
    def build() -> Packer:
        streams = {name: Shuffled(Corpus([[k] * n for n in range(2, 30)]), 0, name) for k, name in enumerate("ab")}
        return Packer(Mixture(streams, {"a": 2, "b": 1}), 64)

    straight, again = build(), build()
    for _ in range(25):
        next(straight)
    again.load_state(json.loads(json.dumps(straight.state())))
    assert all(same(next(straight), next(again)) for _ in range(25))
    assert straight.wasted < 0.3


def test_documents_with_nothing_to_learn_are_dropped_and_counted():
    packs = packer([[1, 2], [3, 4], [5]], 8, masks=[[True, False], [False, True], [True]])
    assert [pack.tokens_T.tolist() for pack in packs] == [[3]] and packs.counts.dropped == 2


def test_an_endless_stream_of_nothing_is_refused():
    with pytest.raises(DataError, match="no"):
        next(packer([[1]] * 1000, 8, epochs=None))


def test_a_window_beyond_the_pack_is_refused():
    with pytest.raises(ConfigError, match="window 9"):
        packer([[1, 2]], 8, window=9)
