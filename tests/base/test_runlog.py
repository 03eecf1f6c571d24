"""Metrics survive kills and resumes; progress lines read well."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from doran.base.errors import DataError, DoranError
from doran.base.runlog import MetricsWriter, Progress, format_number, format_seconds, read_metrics


def test_rows_are_on_disk_as_soon_as_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write({"step": 1, "reward": np.float32(0.5), "bad": float("nan"), "per_task": {"ko": [1, np.int64(2)]}})
    assert json.loads(path.read_text()) == {"step": 1, "reward": 0.5, "bad": None, "per_task": {"ko": [1, 2]}}
    writer.close()


def test_opening_drops_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "rew')
    assert read_metrics(path) == [{"step": 1}]
    with MetricsWriter(path) as writer:
        writer.write({"step": 2})
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]


def test_truncate_removes_what_a_resumed_run_will_write_again(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path) as writer:
        for step in (1, 2, 3, 4):
            writer.write({"step": step})
        writer.write({"note": "no step"})
        writer.truncate_after(2)
        writer.write({"step": 3, "again": True})
    assert read_metrics(path) == [{"step": 1}, {"step": 2}, {"note": "no step"}, {"step": 3, "again": True}]


def test_truncating_gives_the_same_bytes_as_writing(tmp_path: Path) -> None:
    once, twice = tmp_path / "a", tmp_path / "b"
    rows = [{"step": n, "x": n / 3, "글": "도란"} for n in range(5)]
    with MetricsWriter(once) as writer:
        for row in rows:
            writer.write(row)
    with MetricsWriter(twice) as writer:
        for row in rows:
            writer.write(row)
        writer.truncate_after(1)
        for row in rows[2:]:
            writer.write(row)
    assert once.read_bytes() == twice.read_bytes()


def test_a_broken_middle_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\noops\n{"step": 2}\n')
    with pytest.raises(DataError, match="line 2"):
        read_metrics(path)
    assert read_metrics(tmp_path / "none") == []


def test_a_full_disk_is_named() -> None:
    writer = MetricsWriter.__new__(MetricsWriter)
    writer.path = Path("/dev/full")
    writer._file = open("/dev/full", "w")
    with pytest.raises(DoranError, match="disk is full"):
        writer.write({"step": 1})


def test_progress_is_plain_throttled_lines_off_a_terminal() -> None:
    stream = io.StringIO()
    with Progress("zero", 4, stream=stream, every=1000) as progress:
        for step in range(1, 5):
            progress.update(step, reward=step / 8, **{"tok/s": 5400.4})
        progress.note("kept a checkpoint")
    assert stream.getvalue().splitlines() == [
        "zero · step 1/4 · reward 0.125 · tok/s 5,400",
        "zero · step 4/4 · reward 0.5 · tok/s 5,400",
        "kept a checkpoint",
    ]


def test_progress_shows_the_last_state_when_it_stops_early() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress("sft", 9, stream=stream, every=1000) as progress:
        progress.update(1)
        progress.update(2, loss=1.5)
        raise KeyboardInterrupt
    assert stream.getvalue().splitlines()[-1].startswith("sft · step 2/9 · loss 1.5 · ETA ")


def test_progress_is_live_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Progress("rl", None, stream=stream) as progress:
        progress.update(1, reward=0.25)
        progress.note("a note [with brackets]")
    assert "rl · step 1 · reward 0.25" in stream.getvalue() and "a note [with brackets]" in stream.getvalue()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (5400, "5,400"),
        (0.03125, "0.0312"),
        (37.5, "37.5"),
        (None, "–"),
        (True, "True"),
        ("ko", "ko"),
        (float("nan"), "–"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_are_short(value: object, shown: str) -> None:
    assert format_number(value) == shown


def test_durations_are_short() -> None:
    assert [format_seconds(s) for s in (0.4, 59.6, 185, 3720)] == ["0s", "1m00s", "3m05s", "1h02m"]
