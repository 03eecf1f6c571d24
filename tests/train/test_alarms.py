"""Alarms: each on rows that show its trouble, none on a healthy run, and the live path on deliberately broken runs."""

from __future__ import annotations

import io

import pytest
from grpo_kit import Reward, rows, run, share_of_target

from doran.base.runlog import Progress, read_metrics
from doran.train.alarms import alarms, new_alarms

HEALTHY = {
    "reward": 0.5, "rewards/accuracy/mean": 0.4, "rewards/format/mean": 1.0, "frac_reward_zero_std": 0.3,
    "entropy": 0.5, "kl": 0.01, "gap/kl": 1e-4, "completions/clipped_ratio": 0.02, "completions/mean_length": 100.0,
}  # fmt: skip


def course(n: int = 20, **ends: float) -> list[dict]:
    """n rows in which each named value goes from its healthy level to the given one."""
    starts = dict.fromkeys(ends, 0.0) | HEALTHY
    return [
        {name: start + (ends.get(name, start) - start) * i / (n - 1) for name, start in starts.items()}
        for i in range(n)
    ]


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("all_right", {"frac_reward_zero_std": 1.2, "rewards/accuracy/mean": 1.0}),
        ("all_wrong", {"frac_reward_zero_std": 1.2, "rewards/accuracy/mean": 0.0, "reward": 0.1}),
        ("entropy_collapse", {"entropy": 0.0}),
        ("kl_runaway", {"kl": 3.0}),
        ("gap_growing", {"gap/kl": 0.1}),
        ("truncation", {"completions/clipped_ratio": 0.5}),
        ("length_hacking", {"completions/mean_length": 400.0}),
        ("parts_diverging", {"rewards/accuracy/mean": 0.1, "rewards/format/mean": 1.6}),
        ("verifier_errors", {"faults/completions": 10.0, "completions/count": 100.0}),
        ("unusable_prompts", {"faults/prompts": 4.0}),
    ],
)
def test_each_trouble_has_its_alarm_with_a_mend(name: str, ends: dict) -> None:
    found = {alarm.name: alarm for alarm in alarms(course(**ends))}
    assert set(found) == {name}
    assert len(found[name].seen) > 20 and len(found[name].mend) > 20


def test_a_healthy_run_and_a_rising_one_raise_none() -> None:
    assert alarms(course()) == []
    rising = course(**{"reward": 1.0, "rewards/accuracy/mean": 0.9, "entropy": 0.01, "completions/mean_length": 400.0})
    assert alarms(rising) == []  # a policy that gets sure of itself, or longer, while it gets better
    assert alarms([]) == [] and alarms(course(3, **{"frac_reward_zero_std": 1.0})) == []


def test_an_alarm_is_said_once_while_it_stands() -> None:
    standing: set[str] = set()
    bad = course(**{"completions/clipped_ratio": 0.9})
    said = [len(new_alarms(bad[: i + 1], standing)) for i in range(20)]
    assert sum(said) == 1
    assert new_alarms(course(), standing) == [] and standing == set()
    assert len(new_alarms(bad, standing)) == 1


def broken_run(make_model, out, rewards, **changes) -> str:
    shown = io.StringIO()
    with Progress("rl", None, stream=shown) as progress:
        run(make_model(), out, rewards, progress=progress, **changes)
    return shown.getvalue()


def constant(value: float) -> list[Reward]:
    return [Reward("target", 1.0, lambda items, *a: [value] * len(items))]


def fails_sometimes(items: list, texts: list[str], completions: list) -> list[float]:
    if any(c.token_ids[0] % 4 == 0 for c in completions):
        raise ValueError("no parser for this")
    return share_of_target(items, texts, completions)


@pytest.mark.parametrize(
    ("name", "rewards", "changes"),
    [
        ("all_right", constant(1.0), {}),
        ("all_wrong", constant(0.0), {}),
        ("truncation", [Reward("target", 1.0, share_of_target)], {"max_new_tokens": 2}),
        ("verifier_errors", [Reward("target", 1.0, fails_sometimes)], {"on_fault": "drop"}),
        ("entropy_collapse", [Reward("target", 1.0, share_of_target)], {"lr": 0.2, "steps": 24, "grad_clip": 0.0}),
        (
            "kl_runaway",
            [Reward("target", 1.0, share_of_target)],
            {"lr": 0.02, "steps": 22, "beta": 1e-9},
        ),
    ],
)
def test_a_deliberately_broken_run_raises_its_alarm_live_and_in_the_log(make_model, tmp_path, name, rewards, changes):
    shown = broken_run(make_model, tmp_path, rewards, **({"steps": 6} | changes))
    logged = read_metrics(tmp_path / "alarms.jsonl")
    assert name in {row["alarm"] for row in logged}, (rows(tmp_path)[0], rows(tmp_path)[-1])
    first = next(row for row in logged if row["alarm"] == name)
    assert f"alarm at step {first['step']}: {first['seen']}" in shown and first["mend"] in shown
