"""Pretraining: it learns, it survives, it says what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from doran.base.config import build as build_settings
from doran.base.errors import ConfigError, DataError, DoranError, Interrupted, NumericsError
from doran.base.runlog import read_metrics
from doran.models.weights import load_model
from doran.train import checkpoint
from doran.train.batch import pack
from doran.train.loop import module_tensors
from doran.train.pretrain import PretrainSettings, lm_loss, mean_context, run_pretrain, training_flops


def settings(**changes: object) -> PretrainSettings:
    values = {
        "steps": 12,
        "lr": 1e-2,
        "warmup_steps": 2,
        "bf16": False,
        "checkpoint_every_steps": 5,
        "checkpoint_every_s": None,
    }
    return build_settings(PretrainSettings, values | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return module_tensors(load_model(folder))


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [n for n in a if not torch.equal(a[n], b[n])] == []


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("bf16", [False, True])
def test_loss_and_mtp_loss_go_down(make_model, counting, tmp_path, optimizer: str, bf16: bool) -> None:
    model = run_pretrain(make_model(), counting, settings(steps=50, optimizer=optimizer, bf16=bf16), tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in rows] == list(range(1, 51))
    assert rows[0]["loss"] == pytest.approx(3.5, abs=0.4)
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"] and rows[-1]["mtp_loss"] < 0.85 * rows[0]["mtp_loss"]
    assert {"lr", "grad_norm", "tokens_per_second", "mfu", "max_violation", "balance_loss", "tokens"} <= rows[0].keys()
    assert load_model(model).has_mtp


def test_a_dense_family_trains_too(make_model, counting, tmp_path) -> None:
    run_pretrain(make_model(model_type="qwen2", tie_word_embeddings=True), counting, settings(steps=30), tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"] and "mtp_loss" not in rows[0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_broke_off_ends_with_the_same_bits(make_model, counting, tmp_path, optimizer: str) -> None:
    s = settings(optimizer=optimizer, accumulate=2, bf16=True)
    whole = run_pretrain(make_model(), counting, s, tmp_path / "whole")

    def breaking(position: int):
        for number, batch in enumerate(counting(position)):
            if position + number == 17:
                raise RuntimeError("power cut")
            yield batch

    with pytest.raises(RuntimeError):
        run_pretrain(make_model(), breaking, s, tmp_path / "broken")
    assert not (tmp_path / "broken" / "model").exists()
    again = run_pretrain(make_model(seed=99), counting, s, tmp_path / "broken")  # weights come from the checkpoint
    assert_same(weights(again), weights(whole))
    assert [r["step"] for r in read_metrics(tmp_path / "broken" / "metrics.jsonl")] == list(range(1, 13))
    a, b = (read_metrics(tmp_path / n / "metrics.jsonl")[-1]["loss"] for n in ("whole", "broken"))
    assert a == b


SCRIPT = """
    import sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, sys.argv[1])
    from doran.arch.presets import tiny
    from doran.base.rng import python_rng
    from doran.models.families import build
    from doran.train.batch import pack
    from doran.train.pretrain import PretrainSettings, run_pretrain

    def batches(position):
        while True:
            rng = python_rng("kill", position)
            yield pack([([rng.randrange(32) for _ in range(16)], [True] * 16) for _ in range(4)])
            position += 1

    model = build(tiny(vocab_size=32, hidden_size=32, num_hidden_layers=2, max_position_embeddings=64), seed=0)
    s = PretrainSettings(steps=60, lr=1e-2, optimizer="muon", checkpoint_every_steps=2)
    run_pretrain(model, batches, s, Path(sys.argv[2]))
"""


def start(out: Path) -> subprocess.Popen:
    import doran

    source = str(Path(doran.__file__).parents[1])
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(SCRIPT), source, str(out)])


@pytest.mark.slow
def test_kill_9_and_the_same_command_end_with_the_same_bits(tmp_path) -> None:
    assert start(tmp_path / "whole").wait() == 0
    for wait_for in (6, 30):
        process = start(tmp_path / "killed")
        while (
            process.poll() is None and max(checkpoint.steps(tmp_path / "killed" / "checkpoints"), default=0) < wait_for
        ):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "model").exists()
    assert start(tmp_path / "killed").wait() == 0
    assert_same(weights(tmp_path / "killed" / "model"), weights(tmp_path / "whole" / "model"))


def test_a_finished_run_does_nothing_when_started_again(make_model, counting, tmp_path) -> None:
    folder = run_pretrain(make_model(), counting, settings(), tmp_path)
    stamp = (folder / "config.json").stat().st_mtime_ns

    def no_data(position: int):
        raise AssertionError("asked for data")

    model = make_model(seed=5)
    assert run_pretrain(model, no_data, settings(), tmp_path) == folder
    assert (folder / "config.json").stat().st_mtime_ns == stamp
    assert_same(module_tensors(model), weights(folder))


def test_other_settings_on_old_checkpoints_are_refused_but_cadence_may_change(make_model, counting, tmp_path) -> None:
    run_pretrain(make_model(), counting, settings(), tmp_path)
    run_pretrain(make_model(), counting, settings(log_every=3, checkpoint_every_steps=1), tmp_path)
    with pytest.raises(ConfigError, match="lr: .* was started with 0.01, now it is 0.02"):
        run_pretrain(make_model(), counting, settings(lr=2e-2), tmp_path)


def test_another_model_on_old_checkpoints_is_refused(make_model, counting, tmp_path) -> None:
    run_pretrain(make_model(), counting, settings(), tmp_path)
    with pytest.raises(DoranError, match="another model"):
        run_pretrain(make_model(model_type="llama"), counting, settings(), tmp_path)


def test_nan_stops_the_run_and_leaves_no_model(make_model, counting, tmp_path) -> None:
    model = make_model()

    def poisoned(position: int):
        for number, batch in enumerate(counting(position)):
            if number == 7:
                with torch.no_grad():
                    model.model.norm.weight[0] = float("nan")
            yield batch

    with pytest.raises(NumericsError, match=r"loss is nan in step 8; lower lr \(now 0.01\)"):
        run_pretrain(model, poisoned, settings(), tmp_path)
    assert not (tmp_path / "model").exists()
    assert checkpoint.steps(tmp_path / "checkpoints") == [5]
    run_pretrain(make_model(), counting, settings(), tmp_path)
    assert (tmp_path / "model" / "config.json").exists()


def test_ctrl_c_checkpoints_and_says_how_to_go_on(make_model, counting, tmp_path) -> None:
    def interrupting(position: int):
        for number, batch in enumerate(counting(position)):
            if number == 6:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    with pytest.raises(Interrupted, match="stopped after step 7 of 12"):
        run_pretrain(make_model(), interrupting, settings(), tmp_path)
    assert checkpoint.steps(tmp_path / "checkpoints")[-1] == 7
    again = run_pretrain(make_model(), counting, settings(), tmp_path)
    whole = run_pretrain(make_model(), counting, settings(), tmp_path / "whole")
    assert_same(weights(again), weights(whole))


def test_data_that_runs_out_is_named(make_model, counting, tmp_path) -> None:
    import itertools

    with pytest.raises(DataError, match="ran out in step 4"):
        run_pretrain(make_model(), lambda n: itertools.islice(counting(n), 3), settings(), tmp_path)


def test_accumulated_micro_batches_equal_one_large_batch(make_model, counting) -> None:
    from doran.layers.moe import RouterStats

    model, stream = make_model(num_nextn_predict_layers=0), counting(0)
    packs = [next(stream), next(stream)]
    s = settings(balance_alpha=0.0)
    docs = []
    for p in packs:
        for a, b in zip(p.cu_seqlens.tolist(), p.cu_seqlens.tolist()[1:]):
            ids = [*p.tokens_T[a:b].tolist(), int(p.targets_T[b - 1])]
            docs.append((ids, [True] * len(ids)))
    total = sum(p.tokens_T.numel() for p in packs)
    parts = sum(lm_loss(model, p, RouterStats(), s, total, 2)[0] for p in packs)
    whole, _ = lm_loss(model, pack(docs), RouterStats(), s, total, 1)
    torch.testing.assert_close(parts, whole)


def test_router_bias_moves_only_when_asked(make_model, counting, tmp_path) -> None:
    for gamma in (0.0, 1e-3):
        model = make_model()
        run_pretrain(model, counting, settings(steps=3, router_bias_gamma=gamma), tmp_path / str(gamma))
        biases = [b.abs().max().item() for n, b in model.named_buffers() if n.endswith("e_score_correction_bias")]
        assert max(biases) == pytest.approx(0.0 if gamma == 0 else 3e-3, rel=0.7) and len(biases) == 2


def test_flops_and_context_are_counted(make_model) -> None:
    p = pack([(range(5), [True] * 5), (range(9), [True] * 9)])
    assert mean_context([p]) == pytest.approx((4 * 2.5 + 8 * 4.5) / 12)
    config = make_model().config
    assert training_flops(config, True)(8.0) > 1.3 * training_flops(config, False)(8.0)
