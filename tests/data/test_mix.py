from __future__ import annotations

import json

import pytest

from doran.base.errors import ConfigError, DataError
from doran.data.corpus import Corpus, Shuffled
from doran.data.mix import Mixture

WEIGHTS = {"ko": 3, "en": 1, "math": 0.5}


def mixture() -> Mixture:
    lengths = {"ko": (2, 9), "en": (30, 40), "math": (5, 6)}
    corpora = {name: Corpus([[1] * n for n in range(*ends)]) for name, ends in lengths.items()}
    return Mixture({name: Shuffled(corpus, 0, name) for name, corpus in corpora.items()}, WEIGHTS)


def test_shares_hold_to_within_a_document_at_any_moment():
    mix = mixture()
    for count in range(1, 400):
        mix.next()
        total = sum(mix.taken.values())
        if count > 50:
            assert all(abs(mix.taken[name] - total * weight / 4.5) <= 80 for name, weight in WEIGHTS.items())


@pytest.mark.parametrize("read", [0, 1, 37])
def test_it_resumes_exactly_from_its_written_state(read):
    mix, again = mixture(), mixture()
    for _ in range(read):
        mix.next()
    again.load_state(json.loads(json.dumps(mix.state())))
    assert [len(again.next().ids) for _ in range(60)] == [len(mix.next().ids) for _ in range(60)]


def test_unfit_weights_and_states_are_refused():
    stream = Shuffled(Corpus([[1, 2]]), 0)
    for weights in ({}, {"b": 1}, {"a": 0}, {"a": float("nan")}):
        with pytest.raises(ConfigError, match="mixture"):
            Mixture({"a": stream}, weights)
    with pytest.raises(DataError, match="began with"):
        Mixture({"a": stream}, {"a": 1}).load_state(mixture().state())
