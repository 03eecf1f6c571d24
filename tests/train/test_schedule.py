"""Learning-rate shapes, seen at their corners."""

from __future__ import annotations

import pytest

from doran.train.schedule import lr_factor


def curve(**more: object) -> list[float]:
    return [lr_factor(s, 100, warmup_steps=10, **more) for s in range(100)]  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "constant"])
def test_warmup_rises_linearly_and_never_starts_at_zero(schedule: str) -> None:
    c = curve(schedule=schedule)
    assert c[0] == pytest.approx(1 / 11) and c[9] == pytest.approx(10 / 11) and max(c) <= 1.0
    assert all(b > a for a, b in zip(c[:9], c[1:10]))


def test_wsd_stays_then_falls_linearly() -> None:
    c = curve(schedule="wsd", decay_fraction=0.2)
    assert c[10:80] == [1.0] * 70
    assert c[80] == pytest.approx(20 / 21) and c[99] == pytest.approx(1 / 21)


def test_cosine_ends_at_its_floor() -> None:
    c = curve(schedule="cosine", min_factor=0.1)
    assert c[99] == pytest.approx(0.1, abs=1e-3) and c[54] == pytest.approx(0.55, abs=0.02)
    assert all(b < a for a, b in zip(c[10:], c[11:]))


def test_constant_is_constant() -> None:
    assert curve(schedule="constant")[10:] == [1.0] * 90


def test_a_run_shorter_than_its_warmup_does_not_divide_by_zero() -> None:
    assert 0 < lr_factor(2, 3, warmup_steps=5) <= 1
    assert 0 < lr_factor(0, 1, schedule="cosine") <= 1
