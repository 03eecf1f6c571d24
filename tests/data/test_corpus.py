from __future__ import annotations

import json

import pytest

from doran.base.errors import DataError
from doran.data.corpus import Corpus, Shuffled
from doran.text.tokenizer import train_bpe

CORPUS = Corpus([[n] * (n + 1) for n in range(7)])


def first_ids(stream: Shuffled, count: int) -> list[int]:
    return [int(stream.next().ids[0]) for _ in range(count)]


def test_documents_come_back_as_they_went_in():
    assert len(CORPUS) == 7 and CORPUS.num_tokens == 28
    assert [document.ids.tolist() for document in CORPUS] == [[n] * (n + 1) for n in range(7)]
    assert all(document.learn is None for document in CORPUS)


def test_texts_stand_between_begin_and_end():
    tokenizer = train_bpe(["a cat"], 300, 9)
    corpus = Corpus.from_texts(tokenizer, iter(["a", "<think>"] * 600))
    assert len(corpus) == 1200
    assert tokenizer.decode(corpus[0].ids.tolist()) == "<|begin|>a<|end|>"
    assert tokenizer.id_of("<think>") not in corpus[1].ids
    assert tokenizer.id_of("<think>") in Corpus.from_texts(tokenizer, ["<think>"], specials=True)[0].ids


def test_examples_keep_their_masks():
    corpus = Corpus.from_examples([([1, 2], [False, True]), ([3], [True])])
    assert corpus[0].learn.tolist() == [False, True] and corpus[1].learn.tolist() == [True]


def test_every_epoch_holds_every_document_once_in_its_own_order():
    stream = Shuffled(CORPUS, seed=1)
    epochs = [first_ids(stream, 7) for _ in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert first_ids(Shuffled(CORPUS, seed=1), 7) == epochs[0] != first_ids(Shuffled(CORPUS, seed=2), 7)


@pytest.mark.parametrize("read", [0, 3, 7, 10])
def test_the_walk_resumes_exactly_from_its_written_state(read):
    stream = Shuffled(CORPUS, seed=1)
    first_ids(stream, read)
    again = Shuffled(CORPUS, seed=1)
    again.load_state(json.loads(json.dumps(stream.state())))
    assert first_ids(again, 20) == first_ids(stream, 20)


def test_a_finite_walk_ends():
    stream = Shuffled(CORPUS, seed=1, epochs=2)
    first_ids(stream, 14)
    with pytest.raises(StopIteration):
        stream.next()


def test_other_data_and_no_data_are_refused():
    state = Shuffled(CORPUS, seed=1).state()
    with pytest.raises(DataError, match="not what the run began with"):
        Shuffled(Corpus([[1], [2]]), seed=1).load_state(state)
    with pytest.raises(DataError, match="novels: no documents"):
        Shuffled(Corpus([]), seed=1, name="novels")
