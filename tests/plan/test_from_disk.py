"""A model served from disk: bytes as in the released checkpoint, times the right way round, one line each mistake."""

from __future__ import annotations

from dataclasses import replace

import pytest

from doran.arch import presets
from doran.arch.count import parameters
from doran.base.errors import ConfigError
from doran.cli import app
from doran.plan.from_disk import STORED, FromDisk, text
from doran.plan.hardware import CPU, Hardware

MACHINE = Hardware(memory=96 * 2**30, memory_bandwidth=50e9, disk_bandwidth=3e9)
R1 = FromDisk(config=presets.deepseek_v3(), hardware=MACHINE, efficiency=CPU, cache=64 * 2**30)


def test_r1s_bytes_are_those_of_its_checkpoint() -> None:
    assert (R1.moe_layers, R1.num_experts, R1.visits) == (58, 14848, 464)
    assert R1.expert_weights == 44_040_192
    counts = parameters(R1.config)
    assert R1.num_experts * R1.expert_weights == counts.by_part["experts"]
    assert R1.resident_weights + R1.num_experts * R1.expert_weights == 671_026_419_200
    assert R1.expert_bytes == pytest.approx(44_040_192 + 3 * 16 * 56 * 4)  # the block scales
    assert R1.bytes_read() == pytest.approx((1 - R1.held) * 464 * R1.expert_bytes)
    assert 0.10 < R1.held < 0.11


def test_an_empty_cache_on_an_endless_memory_is_bound_by_the_disk_alone() -> None:
    fast = replace(MACHINE, memory_bandwidth=1e18, op_seconds=1e-18)
    plan = replace(R1, hardware=fast, hit_rate=0.0)
    assert plan.tokens_per_second(4096) == pytest.approx(3e9 / (464 * R1.expert_bytes), rel=1e-6)
    assert plan.tokens_per_second(4096) == pytest.approx(plan.fastest(4096), rel=1e-6)


@pytest.mark.parametrize("stored", list(STORED))
def test_more_hits_memory_and_disk_are_never_slower(stored: str) -> None:
    plan = replace(R1, stored=stored)
    speed = plan.tokens_per_second(1024)
    assert speed <= plan.fastest(1024)
    assert (
        replace(plan, hit_rate=0.0).tokens_per_second(1024)
        < speed
        < replace(plan, hit_rate=1.0).tokens_per_second(1024)
    )
    assert speed < replace(plan, hardware=replace(MACHINE, disk_bandwidth=6e9)).tokens_per_second(1024)
    assert speed < replace(plan, cache=128 * 2**30).tokens_per_second(1024)
    assert plan.tokens_per_second(100_000) < speed


def test_a_cache_for_everything_reads_nothing() -> None:
    assert replace(R1, cache=2e12).bytes_read() == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stored": "int3"}, "stored as 'int3'"), ({"cache": 2**20}, "too small"), ({"hit_rate": 1.5}, "hit rate"),
        ({"config": presets.tiny("qwen2")}, "no routed experts"),
    ],
)  # fmt: skip
def test_mistakes_are_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(R1, **change)


def test_the_text_says_what_it_assumes_and_whether_it_fits() -> None:
    told = text("deepseek-r1", R1, 4096)
    assert "routing taken as uniform" in told and "tokens/s" in told
    assert "page cache holds none" in told
    assert "as measured" in text("deepseek-r1", replace(R1, hit_rate=0.5), 4096)
    assert "(MORE than" in text("deepseek-r1", replace(R1, cache=90 * 2**30), 4096)


def test_the_command_plans_the_released_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["plan", "deepseek-r1", "--job", "serve", "--experts-cache", "64G", "--on", "xeon-8480"]) == 0
    out = capsys.readouterr().out
    assert "14,848 experts of 42 MiB (fp8) on disk, 609.1 GiB in all" in out
    assert app.run(["plan", "qwen2.5-7b", "--experts-cache", "8G", "--on", "xeon-8480"]) == 2
    assert "no routed experts" in capsys.readouterr().err
