"""Machine facts have the right size and meaning; speeds are measured, never judged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from doran.base import device


def test_memory_facts_are_consistent() -> None:
    assert 0 < device.available_memory() <= device.total_memory()
    assert 2**20 < device.peak_rss() < device.total_memory()


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }
    limit, used, cache = names[version]
    (tmp_path / limit).write_text("1000000\n")
    (tmp_path / used).write_text("700000\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\n{cache} 200000\n")
    monkeypatch.setattr(device, "_cgroup_folders", lambda: [tmp_path])
    assert device.available_memory() == 500_000
    (tmp_path / limit).write_text("max\n" if version == 2 else "9223372036854771712\n")
    assert device.available_memory() > 500_000


def test_threads_can_be_set() -> None:
    device.set_threads(1)
    assert device.num_threads() == 1


def test_peak_is_measured_once_per_type_and_thread_count() -> None:
    first = device.matmul_peak(torch.bfloat16)
    assert first > 0 and device.matmul_peak("bfloat16") == first


def test_machine_facts_are_plain_data() -> None:
    facts = device.machine()
    assert facts["torch"] == torch.__version__ and facts["cores"] >= 1 and isinstance(facts["isa"], list)
    assert set(facts) == {"cpu", "cores", "threads", "isa", "memory", "os", "python", "torch"}
