"""Two processes learn what one learns: same data, same losses, same weights up to rounding."""

from __future__ import annotations

import json
from pathlib import Path

import jobs
import pytest
import torch
from jobs import SOLO, seen

LOSS = {"abs": 2e-5, "rel": 2e-5}
"""What losses may differ by: sums of float32 in another order, five updates long."""
MUON = {"abs": 5e-3, "rel": 5e-3}
"""Muon's Newton-Schulz rounds to bfloat16, so the last bit of a gradient may become the eighth of an update."""


def assert_close(a: Path, b: Path, atol: float = 2e-4) -> None:
    """Weights may differ by less than a tenth of one update at lr 3e-3 (Adam divides rounding by rounding)."""
    ours, theirs = jobs.weights(a), jobs.weights(b)
    assert ours.keys() == theirs.keys()
    for name, t in ours.items():
        torch.testing.assert_close(t, theirs[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def assert_same_run(one: Path, two: Path, *names: str, within: dict[str, float] = LOSS) -> None:
    """Columns of the two logs agree."""
    for a, b in zip(seen(one, *names), seen(two, *names), strict=True):
        assert b == pytest.approx(a, **within), names


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon", "accumulate": 2}])
def test_five_pretraining_steps(pair, tmp_path, changes: dict) -> None:
    jobs.pretrain(SOLO, tmp_path / "one", **changes)
    pair("same_job", "pretrain", str(tmp_path / "two"), changes)
    columns = ("loss", "grad_norm", "balance_loss", "max_violation", "tokens", "loss_tokens")
    muon = "optimizer" in changes
    assert_same_run(tmp_path / "one", tmp_path / "two", *columns, within=MUON if muon else LOSS)
    assert_close(tmp_path / "one", tmp_path / "two", atol=4e-3 if muon else 2e-4)


def test_the_mtp_module_learns_the_same(pair, tmp_path) -> None:
    # What it reads at a document's end is the next one's first token, which is another one here. Such positions bear no
    # loss, but they are routed, and so move router bias and balance loss: both are off.
    changes = {"mtp": True, "mtp_share": 0.5, "router_bias_gamma": 0.0, "balance_alpha": 0.0}
    jobs.pretrain(SOLO, tmp_path / "one", **changes)
    pair("same_job", "pretrain", str(tmp_path / "two"), changes)
    assert_same_run(tmp_path / "one", tmp_path / "two", "loss", "mtp_loss", "grad_norm")


def test_three_sft_steps(pair, tmp_path) -> None:
    jobs.sft(SOLO, tmp_path / "one")
    pair("same_job", "sft", str(tmp_path / "two"), {})
    assert len(seen(tmp_path / "one", "loss")) == 3
    assert_same_run(tmp_path / "one", tmp_path / "two", "loss", "grad_norm", "loss_tokens")
    assert_close(tmp_path / "one", tmp_path / "two")


def rollouts(out: Path) -> list[dict]:
    """Everything that was sampled."""
    files = sorted((out / "rollouts").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    "changes",
    [{}, {"minibatches": 2, "beta": 0.04, "tokens_per_micro_batch": 48, "exact_logprobs": True, "max_refills": 1}],
)
def test_two_grpo_steps(pair, tmp_path, changes: dict) -> None:
    jobs.grpo(SOLO, tmp_path / "one", **changes)
    pair("same_job", "grpo", str(tmp_path / "two"), changes)
    one, two = rollouts(tmp_path / "one"), rollouts(tmp_path / "two")
    assert len(one) >= 2 * 5 * 6 and [r["completion"] for r in one] == [r["completion"] for r in two]
    assert [r["reward"] for r in one] == [r["reward"] for r in two]
    columns = ("loss", "grad_norm", "entropy", "reward", "gap/max", "eval/looked", "updates", "num_tokens")
    assert_same_run(tmp_path / "one", tmp_path / "two", *columns)
    assert_close(tmp_path / "one", tmp_path / "two")
    if changes:
        assert [len(r["exact_logprobs"] or []) for r in one] == [len(r["exact_logprobs"] or []) for r in two]
