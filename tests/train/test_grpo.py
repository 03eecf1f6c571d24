"""GRPO end to end on a task a tiny model learns in seconds, and its bookkeeping."""

from __future__ import annotations

import pytest
import torch
from grpo_kit import DIALECT, ITEMS, REWARDS, rows, run, settings, share_of_target

from doran.base.errors import ConfigError, DoranError
from doran.base.runlog import read_metrics
from doran.engine.request import Completion
from doran.models.weights import load_model
from doran.train.grpo import chosen, run_grpo
from doran.train.loop import module_tensors
from doran.train.rollout import Reward, Sample

TRL_NAMES = {
    "reward", "reward_std", "rewards/target/mean", "kl", "entropy", "loss", "grad_norm", "lr",
    "completions/mean_length", "completions/min_length", "completions/max_length", "completions/clipped_ratio",
    "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean", "frac_reward_zero_std",
    "num_tokens", "step_time",
}  # fmt: skip
OUR_NAMES = {"gap/mean", "gap/max", "gap/kl", "tokens_per_second", "time/sample", "time/score", "time/update"}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_reward_of_a_trivial_task_rises(make_model, tmp_path, optimizer: str) -> None:
    run(make_model(), tmp_path, steps=25, optimizer=optimizer, lr=1e-2)
    r = [row["reward"] for row in rows(tmp_path)]
    assert sum(r[:3]) / 3 < 0.15 and sum(r[-3:]) / 3 > 0.5


def test_every_promised_name_is_logged(make_model, tmp_path) -> None:
    run(make_model(), tmp_path, beta=0.04)
    for row in rows(tmp_path):
        assert row.keys() >= TRL_NAMES | OUR_NAMES
    first, last = rows(tmp_path)[0], rows(tmp_path)[-1]
    assert first["entropy"] == pytest.approx(3.46, abs=0.2)  # ln 32
    assert first["kl"] == pytest.approx(0, abs=1e-6) and last["kl"] > 0
    assert last["num_tokens"] == sum(x["tokens"] for x in rows(tmp_path)) + 4 * 4 * 6 * 2
    assert (
        1 <= first["completions/min_length"] <= first["completions/mean_length"] <= first["completions/max_length"] <= 6
    )


def test_rollout_and_trainer_agree_on_logprobs_in_fp32(make_model, tmp_path) -> None:
    run(make_model(), tmp_path, temperature=0.8)
    assert all(0 < row["gap/max"] < 1e-4 and row["gap/kl"] < 1e-6 for row in rows(tmp_path))


def test_a_single_update_is_on_policy_and_several_are_not(make_model, tmp_path) -> None:
    run(make_model(), tmp_path / "one")
    assert all(row["ratio"] == 1.0 and row["clip_ratio/region_mean"] == 0.0 for row in rows(tmp_path / "one"))
    run(make_model(), tmp_path / "many", minibatches=2, update_epochs=2, lr=2e-2)
    assert rows(tmp_path / "many")[0]["updates"] == 4
    assert any(row["clip_ratio/region_mean"] > 0 for row in rows(tmp_path / "many"))


def test_micro_batches_do_not_change_the_update(make_model, tmp_path) -> None:
    a, b = make_model(), make_model()
    run(a, tmp_path / "a", steps=1, tokens_per_micro_batch=16, optimizer="muon")
    run(b, tmp_path / "b", steps=1, optimizer="muon")
    assert rows(tmp_path / "a")[0]["loss"] == pytest.approx(rows(tmp_path / "b")[0]["loss"], abs=1e-6)
    assert rows(tmp_path / "a")[0]["grad_norm"] == pytest.approx(rows(tmp_path / "b")[0]["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("extra", [{}, {"beta": 0.05, "reference_refresh_steps": 3, "minibatches": 2, "bf16": True}])
def test_a_run_that_broke_off_ends_with_the_same_bits(make_model, tmp_path, extra: dict) -> None:
    changes = {"steps": 8, **extra}
    calls = 0

    def breaking(*args: list) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt("power cut")
        return share_of_target(*args)

    run(make_model(), tmp_path / "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(make_model(), tmp_path / "broken", [Reward("target", 1.0, breaking)], **changes)
    run(make_model(), tmp_path / "broken", **changes)
    whole, broken = (module_tensors(load_model(tmp_path / n / "model")) for n in ("whole", "broken"))
    assert all(torch.equal(whole[n], broken[n]) for n in whole)
    assert (tmp_path / "whole" / "samples.jsonl").read_text() == (tmp_path / "broken" / "samples.jsonl").read_text()
    clocks = {"step_time", "tokens_per_second", "time/sample", "time/score", "time/update"}
    without_clocks = [
        [{k: v for k, v in r.items() if k not in clocks} for r in rows(tmp_path / n)] for n in ("whole", "broken")
    ]
    assert without_clocks[0] == without_clocks[1]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_rewards_teach_nothing(make_model, tmp_path, value: float) -> None:
    for drop in (True, False):
        model, untouched = make_model(), module_tensors(make_model())
        constant = [Reward("target", 1.0, lambda items, texts, completions: [value] * len(items))]
        run(model, tmp_path / str(drop), constant, steps=2, drop_zero_variance=drop)
        assert all(torch.equal(t, untouched[n]) for n, t in module_tensors(model).items())
        row = rows(tmp_path / str(drop))[-1]
        assert row["frac_reward_zero_std"] == 1.0 and row["loss"] == 0.0 and row["grad_norm"] == 0.0


def test_dynamic_sampling_refills_dull_groups(make_model, tmp_path) -> None:
    odd = [Reward("target", 1.0, lambda items, texts, cs: [float(c.token_ids[0]) * (i % 2) for i, c in zip(items, cs)])]
    run(make_model(), tmp_path / "none", odd, steps=3)
    run(make_model(), tmp_path / "refill", odd, steps=3, max_refills=6)
    assert any(row["kept_groups"] < 4 for row in rows(tmp_path / "none"))
    assert all(row["kept_groups"] == 4 for row in rows(tmp_path / "refill"))


def test_truncated_completions_can_be_masked(make_model, tmp_path) -> None:
    run(make_model(), tmp_path, steps=1, max_new_tokens=2, mask_truncated=True)
    row = rows(tmp_path)[0]
    assert row["completions/clipped_ratio"] > 0.8
    assert row["completions/max_length"] == 2


def test_overlong_completions_are_penalised_under_their_own_name(make_model, tmp_path) -> None:
    run(make_model(), tmp_path, steps=1, overlong_cache=3)
    row = rows(tmp_path)[0]
    assert -1.0 <= row["rewards/overlong/mean"] < -0.5
    assert row["reward"] == pytest.approx(row["rewards/target/mean"] + row["rewards/overlong/mean"])


def test_mtp_learns_alone_and_the_router_bias_is_frozen(make_model, tmp_path) -> None:
    a, b = make_model(), make_model()
    run(a, tmp_path / "a", steps=1, grad_clip=0.0)
    run(b, tmp_path / "b", steps=1, grad_clip=0.0, mtp_lambda=0.3)
    changed = {n for n, t in module_tensors(a).items() if not torch.equal(t, module_tensors(b)[n])}
    start = module_tensors(make_model())
    assert changed and all(n.startswith("model.layers.2.") for n in changed)
    assert all(torch.equal(t, start[n]) for n, t in module_tensors(b).items() if n.endswith("correction_bias"))
    assert rows(tmp_path / "b")[0]["mtp_loss"] > 0


def test_stop_when_ends_the_run_for_good(make_model, tmp_path) -> None:
    rule = {"metric": "completions/max_length", "at_least": 1, "for_steps": 3}
    run(make_model(), tmp_path, steps=10, stop_when=rule)
    assert [r["step"] for r in rows(tmp_path)] == [1, 2, 3]
    run(make_model(), tmp_path, steps=10, stop_when=rule)
    assert [r["step"] for r in rows(tmp_path)] == [1, 2, 3]


def test_what_watch_measures_joins_the_log_and_may_stop_the_run(make_model, tmp_path) -> None:
    looks = iter([{"eval/pass@1": 0.2}, {"eval/pass@1": 0.9}])
    rule = {"metric": "eval/pass@1", "at_least": 0.8, "for_steps": 1}
    run_grpo(
        make_model(), DIALECT, ITEMS, REWARDS, settings(steps=9, stop_when=rule), tmp_path,
        watch=lambda: next(looks), watch_every=2,
    )  # fmt: skip
    assert [r.get("eval/pass@1") for r in rows(tmp_path)] == [None, 0.2, None, 0.9]


def test_stop_when_refuses_clocks_and_unknown_names(make_model, tmp_path) -> None:
    with pytest.raises(ConfigError, match="time"):
        settings(stop_when={"metric": "step_time", "at_least": 1})
    with pytest.raises(ConfigError, match="no metric 'rewad'; did you mean reward"):
        run(make_model(), tmp_path, stop_when={"metric": "rewad", "at_least": 1})


def test_several_rewards_are_weighted_and_logged_apart(make_model, tmp_path) -> None:
    parts = [*REWARDS, Reward("length", 0.5, lambda items, texts, cs: [float(len(c.token_ids)) for c in cs])]
    run(make_model(), tmp_path, parts, steps=1)
    row = rows(tmp_path)[0]
    assert row["reward"] == pytest.approx(row["rewards/target/mean"] + 0.5 * row["rewards/length/mean"])
    assert row["rewards/length/mean"] == pytest.approx(row["completions/mean_length"])


def test_a_broken_reward_function_is_named(make_model, tmp_path) -> None:
    with pytest.raises(DoranError, match="'short' gave 1 values for 24"):
        run(make_model(), tmp_path / "a", [Reward("short", 1.0, lambda *a: [1.0])])
    with pytest.raises(DoranError, match="not a number"):
        run(make_model(), tmp_path / "b", [Reward("nan", 1.0, lambda items, *a: [float("nan")] * len(items))])


def test_samples_tell_prompt_completion_and_rewards(make_model, tmp_path) -> None:
    run(make_model(), tmp_path, steps=2, samples_per_step=3)
    samples = read_metrics(tmp_path / "samples.jsonl")
    assert [s["step"] for s in samples] == [1, 1, 1, 2, 2, 2]
    assert {"prompt", "completion", "reward", "rewards", "advantage", "length", "finish_reason"} <= samples[0].keys()
    assert samples[0]["prompt"].startswith("2 ")


def test_chosen_samples_alternate_best_and_worst() -> None:
    def sample(group: int, reward: float) -> Sample:
        return Sample(None, group, [], Completion([1], [0.0], "stop"), "", reward=reward)

    picked = chosen([sample(g, r) for g in range(4) for r in (0.0, 1.0)], 2)
    assert [(x.group, x.reward) for x in picked] == [(0, 1.0), (2, 0.0)]


@pytest.mark.parametrize(
    "switches",
    [
        {"aggregation": "sequence", "clip_high": 0.2, "beta": 0.04, "drop_zero_variance": False},  # the paper's GRPO
        {"aggregation": "constant", "scale_rewards": "none"},  # Dr.GRPO
        {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "minibatches": 2},  # GSPO
        {"scale_rewards": "batch", "tis_cap": 2.0, "rollout_bf16": True, "bf16": True},
        {"beta": 0.04, "unbiased_kl": True, "router_bias_gamma": 1e-3, "balance_alpha": 1e-4},
    ],
)
def test_the_known_variants_run_and_stay_finite(make_model, tmp_path, switches: dict) -> None:
    run(make_model(), tmp_path, steps=2, **switches)
    for row in rows(tmp_path):
        assert None not in row.values()


@pytest.mark.parametrize("minibatches", [1, 2])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_exact_logprobs_are_the_trainers_bit_for_bit(make_model, tmp_path, bf16: bool, minibatches: int) -> None:
    changes = {"bf16": bf16, "rollout_bf16": bf16, "temperature": 0.8, "steps": 3, "minibatches": minibatches}
    run(make_model(), tmp_path / "exact", exact_logprobs=True, tokens_per_micro_batch=64, **changes)
    run(make_model(), tmp_path / "plain", tokens_per_micro_batch=64, **changes)
    for exact, plain in zip(rows(tmp_path / "exact"), rows(tmp_path / "plain"), strict=True):
        assert exact["updates"] and exact["gap/max"] == exact["gap/mean"] == exact["gap/kl"] == 0.0
        assert exact["gap/sampler_max"] == plain["gap/max"] > 0  # it changes what is told, not what is learnt
        assert exact["loss"] == plain["loss"] and exact["grad_norm"] == plain["grad_norm"]


def test_exact_logprobs_are_recorded_and_off_they_leave_no_trace(make_model, tmp_path) -> None:
    assert "exact_logprobs" not in settings().model_dump()
    run(make_model(), tmp_path, exact_logprobs=True, record="jsonl", steps=1)
    (file,) = sorted((tmp_path / "rollouts").glob("*.jsonl"))
    kept = [row for row in read_metrics(file) if row["exact_logprobs"] is not None]
    assert len(kept) == sum(row["learnt"] for row in read_metrics(file)) > 0
    for row in kept:
        assert row["exact_logprobs"] == pytest.approx(row["logprobs"], abs=1e-4)
