"""Speculation against plain generation: the same tokens, greedy and sampled; and the distribution, by counting.

"Same tokens" is a statement about fixed seeds in float32, where no draw falls within rounding of an edge.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
import torch
from engine_kit import CONFIGS

from doran.base.errors import OutOfMemory, UsageError
from doran.engine import Engine, SamplingParams
from doran.engine.speculate import Draft, MTPDraft, NGramDraft, speculate
from doran.layers.attention import PackedAttend
from doran.models.decoder import Decoder
from doran.models.families import build

PROMPT = [5, 9, 2, 5, 9, 7, 5, 9]


class Oracle(NGramDraft):
    """Knows what will come, and is wrong at every third token."""

    def __init__(self, answer: list[int]) -> None:
        self.answer = answer

    def propose(self, ids: list[int], most: int) -> list[int]:
        at = len(ids) - len(PROMPT)
        right = self.answer[at : at + most]
        return [(t + 1) % 61 if (at + i) % 3 == 2 else t for i, t in enumerate(right)]


def same(model: Decoder, draft: Draft, params: SamplingParams, width: int) -> None:
    engine = Engine(model)
    plain = engine.generate([PROMPT], params)[0][0]
    found = speculate(engine, PROMPT, params, draft, width)
    assert found.completion.token_ids == plain.token_ids and found.completion.finish_reason == plain.finish_reason
    assert found.completion.logprobs == pytest.approx(plain.logprobs, abs=1e-4)
    assert 0 <= found.accepted <= found.drafted and found.forwards + found.accepted >= len(plain.token_ids)


@pytest.mark.parametrize("family", sorted(CONFIGS))
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_tokens_are_those_without_speculation(family: str, temperature: float, width: int) -> None:
    model = build(CONFIGS[family], seed=3)
    params = SamplingParams(max_new_tokens=40, temperature=temperature, top_p=0.95, seed=4)
    answer = Engine(model).generate([PROMPT], params)[0][0].token_ids
    for draft in [NGramDraft(), Oracle(answer), *([MTPDraft()] if model.has_mtp else [])]:
        same(model, draft, params, width)
    stop = answer[11]  # inside a run of drafts
    same(model, Oracle(answer), replace(params, stop_token_ids=(stop,)), width)


def test_right_drafts_save_forwards_and_are_counted() -> None:
    model = build(CONFIGS["qwen2"], seed=3)
    params = SamplingParams(max_new_tokens=30, temperature=0)
    answer = Engine(model).generate([PROMPT], params)[0][0].token_ids
    found = speculate(Engine(model), PROMPT, params, Oracle(answer), width=3)
    assert found.forwards == 10 and found.accepted == 20  # two right, one wrong and mended, each time
    assert found.tokens_per_forward == 3.0 and found.acceptance == pytest.approx(20 / found.drafted)


def test_ngrams_copy_what_followed_before_and_prefer_longer_matches() -> None:
    draft = NGramDraft(longest=3)
    assert draft.propose([1, 2, 3, 4, 9, 3, 5, 1, 2, 3], 2) == [4, 9]
    assert draft.propose([7, 3, 5, 8, 3], 4) == [5, 8, 3]
    assert draft.propose([1, 2, 3], 4) == [] and draft.propose([1], 4) == [] and draft.propose([1, 1], 0) == []


@torch.no_grad()
def test_mtp_drafts_are_those_of_the_training_forward() -> None:
    model = build(CONFIGS["deepseek_v3"], seed=3)
    ids = [*PROMPT, 11, 4]
    seen: list[tuple[list[int], list[int]]] = []

    class Spy(MTPDraft):
        def propose(self, ids: list[int], most: int) -> list[int]:
            seen.append((list(ids), super().propose(ids, most)))
            return seen[-1][1]

    speculate(Engine(model), ids, SamplingParams(max_new_tokens=12, temperature=1, seed=1), Spy(), width=1)
    drafts = [(ids, guess) for ids, guess in seen if guess]
    assert len(drafts) > 4
    for ids, (guess,) in drafts:
        tokens, positions, attend = torch.tensor(ids), torch.arange(len(ids)), PackedAttend([0, len(ids)])
        h_TD = model(tokens, positions, attend)[:-1]
        m_TD = model.mtp(h_TD, tokens[1:], positions[:-1], PackedAttend([0, len(ids) - 1]))
        assert guess == int(model.logits(m_TD[-1:]).argmax())


@torch.no_grad()
def test_sampled_pairs_have_the_models_distribution() -> None:
    model = build(replace(CONFIGS["deepseek_v3"], vocab_size=4, initializer_range=0.4), seed=8)
    prompt, engine, rounds = [1, 2, 1], Engine(model), 3000
    first_V = chances(model, prompt)
    exact = {(a, b): float(first_V[a] * chances(model, [*prompt, a])[b]) for a, b in product(range(4), repeat=2)}
    counts: Counter[tuple[int, ...]] = Counter()
    accepted = 0
    for seed in range(rounds):
        params = SamplingParams(max_new_tokens=2, temperature=1.0, seed=seed)
        found = speculate(engine, prompt, params, NGramDraft(), width=2)
        counts[tuple(found.completion.token_ids)] += 1
        accepted += found.accepted
    assert rounds / 50 < accepted < rounds  # both ways of the rule were taken
    chi2 = sum((counts[pair] - rounds * p) ** 2 / (rounds * p) for pair, p in exact.items())
    assert chi2 < 37.7  # 15 degrees of freedom: one in a thousand is above


def chances(model: Decoder, ids: list[int]) -> torch.Tensor:
    """The next token's probabilities by the training forward."""
    h_TD = model(torch.tensor(ids), torch.arange(len(ids)), PackedAttend([0, len(ids)]))
    return model.logits(h_TD[-1:]).double().softmax(-1)[0]


def test_the_window_ends_a_completion_and_wrong_use_is_told() -> None:
    model = build(CONFIGS["qwen2"], seed=3)
    params = SamplingParams(max_new_tokens=500, temperature=0)
    same(model, NGramDraft(), params, 4)
    with pytest.raises(UsageError, match="no MTP module"):
        speculate(Engine(model), PROMPT, params, MTPDraft())
    with pytest.raises(UsageError, match="width is 0"):
        speculate(Engine(model), PROMPT, params, NGramDraft(), width=0)
    with pytest.raises(OutOfMemory):
        speculate(Engine(model, cache_bytes=64), PROMPT, params, NGramDraft())
