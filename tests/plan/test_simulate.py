"""The played schedules against the papers' formulas, slow loops and hand counts."""

from __future__ import annotations

import pytest

from doran.arch import presets
from doran.base.errors import ConfigError
from doran.plan.cluster import expert_bytes, expert_seconds
from doran.plan.hardware import Efficiency
from doran.plan.profiles import find_hardware
from doran.plan.schedules import SCHEDULES, find_schedule
from doran.plan.simulate import Durations, order, play
from doran.plan.simulate_run import Failing, play_runs
from doran.plan.simulate_traffic import exchange, fsdp, route

UNIT = Durations(forward=1.0, backward=2.0, weight=1.0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 4), (4, 8), (8, 32), (16, 64)])
def test_idle_time_and_held_activations_are_the_papers_formulas(name, stages, micro_batches):
    chunks = 2 if name == "interleaved" else 1
    played = play(name, stages, micro_batches, UNIT, chunks=chunks)
    schedule = find_schedule(name)
    assert played.busy == pytest.approx(3 * micro_batches)
    assert played.seconds - played.busy == pytest.approx(schedule.idle(stages, chunks, 1, 2, 1))
    assert played.held / chunks == pytest.approx(schedule.micro_batches_held(stages, chunks), abs=0.5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_micro_batch_goes_forward_and_backward_once_on_every_device(name):
    stages, micro_batches, chunks = 4, 8, 2 if name == "interleaved" else 1
    for ops in order(name, stages, micro_batches, chunks):
        pieces = [piece for op in ops for piece in op]
        forward = sorted((p.micro, p.flow) for p in pieces if p.kind == "F")
        backward = sorted((p.micro, p.flow) for p in pieces if p.kind == "B")
        halves = sorted((p.micro, p.flow) for p in pieces if p.kind == "W")
        assert forward == backward and len(set(forward)) == len(forward) == micro_batches * chunks
        assert halves == sorted((p.micro, p.flow) for p in pieces if p.kind == "B" and not p.whole)


def test_no_operation_starts_before_what_it_needs():
    played = play("dualpipe", 4, 8, Durations(1.0, 2.0, 1.0, hop=0.3))
    ends = {(p.kind, p.micro, p.flow, e.device): e.end for e in played.events for p in e.op}
    for event in played.events:
        for piece in event.op:
            before = event.device + (-1 if piece.flow == 0 else 1)
            if piece.kind == "F" and 0 <= before < 4:
                assert event.start >= ends["F", piece.micro, piece.flow, before] + 0.3 - 1e-9


def test_running_together_is_what_dualpipe_gains_from():
    slow = play("dualpipe", 8, 32, UNIT)
    fast = play("dualpipe", 8, 32, Durations(1.0, 2.0, 1.0, together=2.5))
    assert fast.seconds < slow.seconds - 10


def test_jitter_makes_everybody_wait_and_is_the_same_for_the_same_seed():
    calm, rough, again = (play("1f1b", 4, 16, UNIT, replicas=8, jitter=j, seed=1) for j in (0.0, 0.2, 0.2))
    assert rough.seconds > calm.seconds and (rough.seconds_R == again.seconds_R).all()
    assert rough.seconds_R.shape == (8,)


@pytest.mark.parametrize(("name", "stages", "micro"), [("interleaved", 4, 6), ("dualpipe", 3, 12), ("dualpipe", 4, 6)])
def test_numbers_a_schedule_cannot_take_are_named(name, stages, micro):
    with pytest.raises(ConfigError, match=name):
        order(name, stages, micro)
    with pytest.raises(ConfigError, match="unknown pipeline schedule"):
        order("dualpip", 2, 4)


# ---- traffic -----------------------------------------------------------------------------------------------------


def test_routing_keeps_to_the_limit_of_groups_and_draws_distinct_experts():
    v3 = presets.deepseek_v3()
    experts_TK = route(v3, 200)
    assert experts_TK.shape == (200, 8)
    for row in experts_TK:
        assert len(set(row)) == 8 and len({e // 32 for e in row}) <= 4


def test_played_all_to_all_is_near_the_closed_form_and_skew_makes_it_worse():
    v3, h800 = presets.deepseek_v3(), find_hardware("h800")
    played = exchange(v3, h800, ep=64, tokens=4096, drawn=64)
    between, _ = expert_bytes(v3, h800, 64, fp8=True)
    assert played.copies_to_nodes * v3.hidden_size * 3 == pytest.approx(between, rel=0.1)
    assert played.seconds == pytest.approx(expert_seconds(v3, h800, Efficiency(), 64, 4096, True), rel=0.25)
    assert played.visits_D.sum() == 64 * 64 * 8
    assert exchange(v3, h800, ep=64, tokens=4096, drawn=64, skew=0.1).imbalance > played.imbalance


def test_without_a_node_limit_a_token_travels_further():
    v3, h800 = presets.deepseek_v3(), find_hardware("h800")
    free = presets.ModelConfig(**{**vars(v3), "n_group": 1, "topk_group": 1})
    limited, further = (exchange(config, h800, 64, 256, drawn=32).copies_to_nodes for config in (v3, free))
    assert further > limited


def test_fsdp_waits_only_for_what_it_cannot_hide():
    assert fsdp(10, gather=0.5, forward=1, backward=2, reduce=0.0).exposed == pytest.approx(0.5)  # the first gather
    slow = fsdp(10, gather=3, forward=1, backward=2, reduce=0.0)
    assert slow.seconds == pytest.approx(20 * 3 + 2)  # moving is the bottleneck, the last backward pass follows
    alone = fsdp(4, gather=1, forward=1, backward=2, reduce=1.0, ahead=0)
    assert alone.exposed >= 8  # nothing ahead: every gather is waited for


# ---- failures ----------------------------------------------------------------------------------------------------


def test_played_failures_agree_with_dalys_form():
    failing = Failing(work=10 * 86400, devices=16384)
    interval = failing.best_interval()
    runs = play_runs(failing, interval, runs=64)
    assert runs.seconds_R.mean() == pytest.approx(failing.expected(interval), rel=0.02)
    assert runs.failures_R.mean() == pytest.approx(runs.seconds_R.mean() / failing.mtbf, rel=0.1)


def test_youngs_interval_is_about_the_best_one():
    failing = Failing(work=10 * 86400, devices=16384)
    best = failing.best_interval()
    assert failing.expected(best) < min(failing.expected(best / 3), failing.expected(best * 3))
    assert 0.85 < failing.availability(best) < 1
    with pytest.raises(ConfigError, match="devices"):
        Failing(work=1, devices=0)
