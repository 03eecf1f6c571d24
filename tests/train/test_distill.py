"""Distillation trainers: a student comes near its teacher, and a killed run ends with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from doran.base.config import build as build_settings
from doran.base.errors import DataError
from doran.base.runlog import read_metrics
from doran.layers.attention import PackedAttend
from doran.models.weights import load_model
from doran.train.batch import pack
from doran.train.distill import (
    OnPolicySettings,
    TopkSettings,
    TopkTable,
    run_on_policy,
    run_topk,
    teacher_topk,
)
from doran.train.loop import module_tensors
from doran.train.samples import Dialect

MASK = [False, False, False, True, True, True]
SAMPLES = [([2, a, b, (a + b) % 16, a, 1], MASK) for a in range(8) for b in range(8)]
BASE = {"bf16": False, "lr": 1e-2, "warmup_steps": 1, "weight_decay": 0.0, "checkpoint_every_steps": 3}
DIALECT = Dialect(lambda item: [2, item, 5], lambda ids: " ".join(map(str, ids)), (1,))


def draw(rng: Any, n: int) -> list[int]:
    return [rng.randrange(3, 20) for _ in range(n)]


def same(a: Path, b: Path) -> bool:
    x, y = (module_tensors(load_model(folder)) for folder in (a, b))
    return all(torch.equal(x[name], y[name]) for name in x)


def dies_after(updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run breaks off in its update number `updates`."""
    from doran.train import distill

    whole, done = distill._update, []

    def broken(*args: Any) -> Any:
        done.append(1)
        if len(done) > updates:
            raise RuntimeError("power cut")
        return whole(*args)

    monkeypatch.setattr(distill, "_update", broken)


def test_the_table_holds_the_teachers_own_numbers_and_survives_the_disk(make_model, tmp_path) -> None:
    teacher = make_model(seed=3)
    table = teacher_topk(teacher, SAMPLES, k=5, tokens_per_batch=40)
    table.save(tmp_path / "t.safetensors")
    again = TopkTable.load(tmp_path / "t.safetensors")
    assert torch.equal(again.ids_NK, table.ids_NK) and torch.equal(again.logprobs_NK, table.logprobs_NK)
    for i in (0, 17, 63):
        p = pack([SAMPLES[i]])
        with torch.no_grad():
            logits = teacher.logits(teacher(p.tokens_T, p.positions_T, PackedAttend(p.cu_seqlens)))[2:5]
        top = logits.log_softmax(-1).topk(5)
        rows = slice(again.starts[i], again.starts[i + 1])
        assert torch.equal(again.ids_NK[rows], top.indices)
        torch.testing.assert_close(again.logprobs_NK[rows], top.values, rtol=1e-4, atol=1e-4)


def test_topk_brings_the_student_near_and_resumes_to_the_same_bits(make_model, tmp_path, monkeypatch) -> None:
    teacher = make_model(seed=3, initializer_range=0.2)
    table = teacher_topk(teacher, SAMPLES, k=8)
    s = build_settings(TopkSettings, BASE | {"epochs": 12, "tokens_per_batch": 160})
    whole = run_topk(make_model(), SAMPLES, table, s, tmp_path / "whole")
    losses = [row["loss"] for row in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert losses[-1] < 0.5 * losses[0]
    with monkeypatch.context() as m:
        dies_after(7, m)
        with pytest.raises(RuntimeError):
            run_topk(make_model(), SAMPLES, table, s, tmp_path / "broken")
    assert same(whole, run_topk(make_model(), SAMPLES, table, s, tmp_path / "broken"))


def test_a_table_of_other_samples_is_refused(make_model, tmp_path) -> None:
    table = teacher_topk(make_model(), SAMPLES[:3], k=2)
    with pytest.raises(DataError, match="of other samples"):
        run_topk(make_model(), SAMPLES, table, TopkSettings(), tmp_path)


@pytest.mark.parametrize("divergence", ["full", "sampled"])
def test_on_policy_comes_near_the_teacher_and_resumes(make_model, tmp_path, monkeypatch, divergence: str) -> None:
    noisy = {"lr": 3e-3, "steps": 60, "samples_per_prompt": 16} if divergence == "sampled" else {}
    small = {"steps": 40, "prompts_per_step": 8, "samples_per_prompt": 4, "max_new_tokens": 8}
    s = build_settings(
        OnPolicySettings, BASE | small | noisy | {"divergence": divergence, "tokens_per_micro_batch": 128}
    )

    def run(out: Path) -> Path:
        return run_on_policy(make_model(), make_model(seed=3, initializer_range=0.2), DIALECT, draw, s, out)

    whole = run(tmp_path / "whole")
    kls = [row["reverse_kl"] for row in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert sum(kls[-8:]) < 0.85 * sum(kls[:8])
    with monkeypatch.context() as m:
        dies_after(7, m)
        with pytest.raises(RuntimeError):
            run(tmp_path / "broken")
    assert same(whole, run(tmp_path / "broken"))
