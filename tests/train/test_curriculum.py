"""Sampling less and learning more: probes, choice of prompts, replay, circles, one step ahead; all resumable."""

from __future__ import annotations

import pytest
import torch
from grpo_kit import DIALECT, ITEMS, REWARDS, Reward, rows, run, settings, share_of_target

from doran.engine.engine import Engine
from doran.engine.request import Completion
from doran.models.weights import load_model
from doran.train.curriculum import PromptBook, Replay
from doran.train.loop import module_tensors
from doran.train.rollout import Source, roll_out
from doran.train.samples import Sample, groups_of
from doran.train.sampling import Sampler, goes_in_circles


def sample(item: int, reward: float, group: int = 0) -> Sample:
    return Sample(item, group, [2, item], Completion([5, 1], [-0.1, -0.2], "stop"), "5", reward=reward, advantage=0.5)


def test_the_book_prefers_prompts_that_are_solved_half_the_time() -> None:
    book = PromptBook({})
    for item, successes in ((3, 8), (4, 4), (5, 0)):
        book.observe([sample(item, float(i < successes), group=item) for i in range(8)])
    assert book.choose([3, 5, 4], 1) == [4]
    assert book.choose([3, 4, 4, 9], 2) == [4, 9]  # an unknown one counts as the mean of all; none twice
    assert book.rate(3) > 0.8 > book.rate(9) > book.rate(5)
    assert book.rate(9) == pytest.approx(0.5)


def test_the_book_forgets_slowly() -> None:
    book = PromptBook({})
    for success in (0.0, 1.0, 1.0, 1.0):
        book.observe([sample(3, success) for _ in range(8)])
    assert book.rate(3) > 0.8


def test_replay_gives_each_group_once_the_widest_first_and_none_too_old() -> None:
    memory: list = []
    replay = Replay(memory, capacity=3, max_age=2)
    replay.remember([sample(3, r, 0) for r in (0.0, 1.0)] + [sample(4, r, 1) for r in (0.0, 0.1)], step=1)
    replay.remember([sample(5, r, 0) for r in (0.0, 0.5)], step=2)
    taken = replay.take(2, 3, DIALECT, first_group=10)
    assert [(x.prompt_ids[1], x.group, x.age) for x in taken] == [(3, 10, 2), (3, 10, 2), (5, 11, 1), (5, 11, 1)]
    assert taken[0].completion == Completion([5, 1], [-0.1, -0.2], "stop") and taken[0].advantage == 0.5
    assert len(memory) == 1
    assert replay.take(5, 9, DIALECT, 0) == [] and memory == []
    for step in range(5):
        replay.remember([sample(3, 0.0)], step)
    assert [group["step"] for group in memory] == [2, 3, 4]


def source(model, draw=ITEMS, rewards=REWARDS, **changes) -> Source:
    return Source(Sampler(Engine(model), DIALECT, settings(**changes)), draw, rewards)


def test_a_probe_completes_only_groups_that_differ(make_model) -> None:
    odd = [Reward("odd", 1.0, lambda items, texts, cs: [float(c.token_ids[0]) * (i % 2) for i, c in zip(items, cs)])]
    rollout = roll_out(source(make_model(), rewards=odd, probe=3, probe_prompts=8), 0)
    sizes = [len(g) for g in groups_of(rollout.samples)]
    assert set(sizes) == {3, 6} and rollout.probed == 8 and len(sizes) == 8
    assert rollout.rewards_PG.shape == (sizes.count(6), 6)
    kept = groups_of(rollout.kept)
    assert kept and all(len(g) == 6 and g[0].item % 2 == 1 for g in kept)
    for group in kept:
        assert sum(x.advantage for x in group) == pytest.approx(0, abs=1e-5) and {x.item for x in group} == {
            group[0].item
        }


def test_hopeless_probes_still_fill_a_quarter(make_model) -> None:
    nothing = [Reward("nothing", 1.0, lambda items, *a: [0.0] * len(items))]
    rollout = roll_out(source(make_model(), rewards=nothing, probe=2), 0)
    assert len(rollout.rewards_PG) == 1 and rollout.kept == []


@pytest.mark.parametrize(
    ("ids", "circles"),
    [
        (list(range(200)), False),
        ([1, 2] + [7] * 48, True),
        ([7] * 47, False),
        (list(range(9)) + [1, 2, 3, 4, 5] * 10, True),
        ([1, 2, 3, 4, 5] * 9 + [1, 2, 9, 4, 5], False),
        (list(range(40)) * 3, False),
        (list(range(40)) * 4, True),
    ],
)
def test_circles_are_four_copies_at_the_end(ids: list[int], circles: bool) -> None:
    assert goes_in_circles(ids) is circles


class Parrot:
    """An engine whose first prompt is answered with sevens without end, the second with a count and then a stop."""

    def __init__(self, model) -> None:
        self.model = model

    def generate(self, prompts, params, n=1):
        def answer(prompt: list[int], budget: int) -> Completion:
            if prompt[1] == 3:
                return Completion([7] * budget, [-0.5] * budget, "length")
            counted = [10 + (len(prompt) + i) % 20 for i in range(budget)]
            if len(prompt) > 2:
                return Completion([*counted[:3], 1], [-0.25] * 4, "stop")
            return Completion(counted, [-0.5] * budget, "length")

        return [[answer(p, q.max_new_tokens)] * n for p, q in zip(prompts, params, strict=True)]


def test_completions_in_circles_are_cut_short_and_others_go_on(make_model) -> None:
    s = settings(group_size=2, max_new_tokens=60, stop_repeats_after=52)
    circling, fine = groups_of(Sampler(Parrot(make_model()), DIALECT, s).groups([3, 4], (0, 0)))  # type: ignore[arg-type]
    assert [(x.length, x.truncated) for x in circling] == [(52, True)] * 2
    assert [(x.length, x.truncated, x.mask) for x in fine] == [(56, False, None)] * 2
    assert fine[0].completion.logprobs == [-0.5] * 52 + [-0.25] * 4


EVERYTHING = {"choice": "variance", "choice_candidates": 2, "replay_groups": 6, "drop_zero_variance": True}


@pytest.mark.parametrize(
    "options",
    [
        {**EVERYTHING, "probe": 2, "probe_prompts": 6, "entropy_target": 3.3, "record": "jsonl"},
        {**EVERYTHING, "async_rollouts": True},
    ],
    ids=["probe", "async"],
)
def test_a_run_with_memories_that_broke_off_ends_with_the_same_bits(make_model, tmp_path, options: dict) -> None:
    changes = {"steps": 6, **options}
    calls = 0

    def breaking(*args: list) -> list[float]:
        nonlocal calls
        calls += 1
        if len({tuple(c.token_ids) for c in args[2]}) and calls == (10 if "probe" in options else 5):
            raise KeyboardInterrupt("power cut")
        return share_of_target(*args)

    run(make_model(), tmp_path / "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(make_model(), tmp_path / "broken", [Reward("target", 1.0, breaking)], **changes)
    assert (tmp_path / "broken" / "checkpoints").exists()
    run(make_model(), tmp_path / "broken", **changes)
    whole, broken = (module_tensors(load_model(tmp_path / n / "model")) for n in ("whole", "broken"))
    assert all(torch.equal(whole[n], broken[n]) for n in whole)
    for name in ["samples.jsonl", *(["rollouts/step_00000006.jsonl"] if "record" in options else [])]:
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "broken" / name).read_text()


def test_async_rollouts_are_one_step_old_and_weighted(make_model, tmp_path) -> None:
    run(make_model(), tmp_path / "ahead", steps=4, async_rollouts=True, lr=2e-2)
    run(make_model(), tmp_path / "plain", steps=4, lr=2e-2)
    ahead, plain = rows(tmp_path / "ahead"), rows(tmp_path / "plain")
    assert ahead[0]["reward"] == plain[0]["reward"] and ahead[0]["gap/max"] < 1e-4
    assert ahead[1]["gap/max"] > 1e-2 > plain[1]["gap/max"]  # the step between shows as a gap
    assert [row["ratio"] for row in ahead] == [1.0] * 4


def test_replayed_groups_are_learnt_again_and_counted(make_model, tmp_path) -> None:
    odd = [Reward("odd", 1.0, lambda items, texts, cs: [float(c.token_ids[0]) * (i % 2) for i, c in zip(items, cs)])]
    run(make_model(), tmp_path, odd, steps=4, replay_groups=8, lr=2e-2)
    seen = rows(tmp_path)
    assert seen[0]["replay/groups"] == 0 and any(row["replay/groups"] > 0 for row in seen[1:])
    assert all(row["kept_groups"] + row["replay/groups"] <= 4 for row in seen)
    assert all(row["gap/max"] < 1e-3 for row in seen)  # the age of a replayed group is not the sampler's gap


@pytest.mark.parametrize(
    "switches",
    [
        {"advantage": "rloo", "objective": "cispo", "importance_cut": "mask", "importance_floor": 0.5},
        {"advantage": "reinforce++", "drop_zero_variance": False, "importance_level": "sequence"},
        {"advantage": "gdpo", "objective": "sapo", "entropy_coef": 1e-3, "ratio_cap": 4.0},
        {"beta": 0.01, "kl_estimator": "k1", "minibatches": 2, "off_policy_delta": 0.1},
    ],
)
def test_the_switches_run_and_stay_finite(make_model, tmp_path, switches: dict) -> None:
    run(make_model(), tmp_path, steps=2, **switches)
    assert all(None not in row.values() for row in rows(tmp_path))
