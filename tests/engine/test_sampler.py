"""The sampler against slow, obvious references: one row at a time, plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from doran.engine import sampler
from doran.engine.sampler import RowParams, cut, inverse_cdf, sample


def rows(n: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> RowParams:
    return RowParams(
        torch.full((n,), temperature), torch.full((n,), top_k), torch.full((n,), top_p), torch.full((n,), min_p)
    )


def reference_cut(probs: list[float], top_k: int, top_p: float, min_p: float) -> list[float]:
    """Sort, cut by count, cut by renormalised mass, cut by share of the top, each in its own line."""
    order = sorted(range(len(probs)), key=lambda i: (-probs[i], i))
    if top_k:
        order = order[:top_k]
    mass = sum(probs[i] for i in order) if top_k else 1.0
    kept, before = [], 0.0
    for i in order:
        if kept and top_p < 1 and before >= top_p * mass:
            break
        kept.append(i)
        before += probs[i]
    kept = [i for i in kept if probs[i] >= min_p * probs[order[0]]]
    return [p if i in kept else 0.0 for i, p in enumerate(probs)]


def reference_draw(probs: list[float], uniform: float) -> int:
    target, seen = uniform * sum(probs), 0.0
    for i, p in enumerate(probs):
        seen += p
        if seen > target:
            return i
    raise AssertionError("uniform must be below 1")


def random_probs(n: int, v: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(spread * torch.randn(n, v, generator=generator), -1)


CUTS = [
    dict(top_k=1), dict(top_k=3), dict(top_k=100), dict(top_p=0.1), dict(top_p=0.5), dict(top_p=0.95), dict(min_p=0.05),
    dict(min_p=1.0), dict(top_k=5, top_p=0.7), dict(top_k=7, top_p=0.9, min_p=0.2), dict(top_p=1e-9),
]  # fmt: skip


@pytest.mark.parametrize("settings", CUTS, ids=str)
def test_cuts_equal_the_reference(settings: dict[str, float]) -> None:
    probs = random_probs(20, 30)
    full = dict(top_k=0, top_p=1.0, min_p=0.0) | settings
    expected = [reference_cut(row, **full) for row in probs.tolist()]  # type: ignore[arg-type]
    torch.testing.assert_close(cut(probs, rows(20, **settings)), torch.tensor(expected))  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", CUTS, ids=str)
@pytest.mark.parametrize("spread", [0.0, 0.1, 2.0, 6.0], ids="spread{}".format)
def test_looking_at_the_likeliest_candidates_first_changes_nothing(
    settings: dict[str, float], spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    probs, params = random_probs(20, 60, spread=spread), rows(20, **settings)  # type: ignore[arg-type]
    monkeypatch.setattr(sampler, "CANDIDATES", ())
    by_full_sort = cut(probs, params)
    monkeypatch.setattr(sampler, "CANDIDATES", (4, 16))
    assert torch.equal(cut(probs, params), by_full_sort)


def test_rows_with_different_cuts_do_not_touch_each_other() -> None:
    probs = random_probs(3, 30)
    mixed = RowParams(
        torch.ones(3), torch.tensor([4, 0, 0]), torch.tensor([1.0, 0.6, 1.0]), torch.tensor([0.0, 0.0, 0.3])
    )
    alone = [rows(1, top_k=4), rows(1, top_p=0.6), rows(1, min_p=0.3)]
    expected = torch.cat([cut(probs[i : i + 1], p) for i, p in enumerate(alone)])
    assert torch.equal(cut(probs, mixed), expected)


@pytest.mark.parametrize("settings", CUTS, ids=str)
def test_weights_need_not_sum_to_one(settings: dict[str, float]) -> None:
    probs, params = random_probs(20, 30), rows(20, **settings)  # type: ignore[arg-type]
    assert torch.equal(cut(8 * probs, params), 8 * cut(probs, params))


def test_a_row_without_cuts_is_sampled_the_same_beside_rows_with_cuts() -> None:
    logits = 3 * torch.randn(2, 50, generator=torch.Generator().manual_seed(4))
    mixed = RowParams(torch.ones(2), torch.tensor([3, 0]), torch.ones(2), torch.zeros(2))
    for uniform in torch.linspace(0, 1, 101, dtype=torch.float64)[:-1]:
        beside = sample(logits, mixed, uniform.expand(2))
        alone = sample(logits[1:], rows(1), uniform.expand(1))
        assert beside[0][1].item() == alone[0].item() and beside[1][1].item() == alone[1].item()


def test_equal_probabilities_are_cut_from_the_highest_id_down() -> None:
    assert cut(torch.full((1, 8), 0.125), rows(1, top_k=3)).nonzero()[:, 1].tolist() == [0, 1, 2]


def test_inverse_cdf_equals_a_walk_through_the_tokens() -> None:
    probs = random_probs(200, 17)
    uniform = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = [reference_draw(p, u) for p, u in zip(probs.double().tolist(), uniform.tolist(), strict=True)]
    assert inverse_cdf(probs.cumsum(-1), uniform).tolist() == expected


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_inverse_cdf_never_returns_a_token_of_probability_zero(uniform: float) -> None:
    probs = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0], [0.0, 0.0, 1e-30, 0.0, 0.0]])
    drawn = inverse_cdf(probs.cumsum(-1), torch.full((2,), uniform, dtype=torch.float64))
    assert (probs.gather(1, drawn[:, None]) > 0).all()


def test_temperature_zero_takes_the_likeliest_token_and_the_lowest_id_among_ties() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
    tokens, _ = sample(logits, rows(2, temperature=0.0), torch.full((2,), 0.99, dtype=torch.float64))
    assert tokens.tolist() == [1, 0]


@pytest.mark.parametrize(("temperature", "of_temperature"), [(0.5, 0.5), (2.0, 2.0), (1.0, 1.0), (0.0, 1.0)])
def test_logprobs_are_at_the_sampling_temperature_before_any_cut(temperature: float, of_temperature: float) -> None:
    logits = torch.randn(9, 12, generator=torch.Generator().manual_seed(3))
    uniform = torch.linspace(0, 0.99, 9, dtype=torch.float64)
    tokens, logprobs = sample(logits, rows(9, temperature=temperature, top_k=3, top_p=0.8), uniform)
    for row, token, logprob in zip(logits.double(), tokens.tolist(), logprobs.tolist(), strict=True):
        scaled = row / of_temperature
        assert logprob == pytest.approx(float(scaled[token]) - math.log(float(scaled.exp().sum())), abs=1e-5)


def test_a_low_temperature_does_not_overflow() -> None:
    tokens, logprobs = sample(torch.tensor([[50.0, 40.0]]), rows(1, temperature=1e-3), torch.tensor([0.5]).double())
    assert tokens.item() == 0 and logprobs.item() == 0.0


def test_a_row_is_sampled_the_same_alone_and_in_a_batch() -> None:
    logits = 3 * torch.randn(33, 50, generator=torch.Generator().manual_seed(4))
    uniform = torch.rand(33, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    together = sample(logits, rows(33, temperature=0.7, top_p=0.9), uniform)
    for i in range(33):
        alone = sample(logits[i : i + 1], rows(1, temperature=0.7, top_p=0.9), uniform[i : i + 1])
        assert alone[0].item() == together[0][i].item() and alone[1].item() == together[1][i].item()


CHI2_999 = {3: 16.27, 5: 20.52, 7: 24.32}  # 99.9% points by degrees of freedom


@pytest.mark.parametrize(
    "settings", [dict(), dict(temperature=0.6), dict(top_k=4), dict(top_p=0.9), dict(min_p=0.2)], ids=str
)
def test_frequencies_follow_the_distribution(settings: dict[str, float]) -> None:
    """Chi-square, seeds fixed, at the 99.9% point (or the next listed one above)."""
    logits = torch.tensor([0.3, 1.5, -0.4, 0.9, 0.0, 1.2, -1.0, 0.6])
    n = 20_000
    uniform = torch.from_numpy(np.random.default_rng(7).random(n))
    tokens, _ = sample(logits.expand(n, -1), rows(n, **settings), uniform)  # type: ignore[arg-type]
    full = dict(top_k=0, top_p=1.0, min_p=0.0) | {k: v for k, v in settings.items() if k != "temperature"}
    probs = reference_cut(torch.softmax(logits / settings.get("temperature", 1.0), -1).tolist(), **full)  # type: ignore[arg-type]
    counts = torch.bincount(tokens, minlength=8).tolist()
    kept = [i for i, p in enumerate(probs) if p > 0]
    assert sum(counts[i] for i in kept) == n
    expected = [n * probs[i] / sum(probs) for i in kept]
    chi2 = sum((counts[i] - e) ** 2 / e for i, e in zip(kept, expected, strict=True))
    assert chi2 < min(limit for freedom, limit in CHI2_999.items() if freedom >= len(kept) - 1)


def test_nan_logits_give_a_valid_token_and_a_nan_logprob() -> None:
    tokens, logprobs = sample(torch.full((1, 5), float("nan")), rows(1), torch.tensor([0.5]).double())
    assert 0 <= tokens.item() < 5 and math.isnan(logprobs.item())
