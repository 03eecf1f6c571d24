"""The flight recorder: all completions of all steps, in both formats, cut on resume."""

from __future__ import annotations

import importlib.util

import pytest
from grpo_kit import run

from doran.base.errors import ArtifactError, ConfigError
from doran.base.runlog import read_metrics
from doran.train import recorder
from doran.train.recorder import read_step, recorded


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_every_completion_is_recorded(make_model, tmp_path, kind: str) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    run(make_model(), tmp_path, steps=2, record=kind)
    files = recorded(tmp_path / "rollouts")
    assert [step for step, _ in files] == [1, 2]
    rows = read_step(files[1][1])
    assert len(rows) == 24 and {r["group"] for r in rows} == {0, 1, 2, 3}
    row = rows[0]
    assert row["prompt"].startswith("2 ") and row["rewards"] == {"target": row["reward"]}
    assert len(row["token_ids"]) == len(row["logprobs"]) == row["length"] and row["fault"] is None
    assert sum(r["advantage"] for r in rows) == pytest.approx(0, abs=1e-4)
    mean = sum(r["reward"] for r in rows) / len(rows)
    assert mean == pytest.approx(read_metrics(tmp_path / "metrics.jsonl")[1]["reward"])


def test_nothing_is_recorded_unless_asked(make_model, tmp_path) -> None:
    run(make_model(), tmp_path, steps=1)
    assert not (tmp_path / "rollouts").exists()


def test_steps_that_will_be_made_again_are_forgotten(tmp_path) -> None:
    for step in (1, 2, 3):
        (tmp_path / "rollouts").mkdir(exist_ok=True)
        (tmp_path / "rollouts" / f"step_{step:08d}.jsonl").write_text("{}\n")
    recorder.Recorder(tmp_path, "jsonl", None).truncate_after(1)  # type: ignore[arg-type]
    assert [step for step, _ in recorded(tmp_path / "rollouts")] == [1]


def test_parquet_without_pyarrow_says_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pyarrow"):
        recorder.Recorder(tmp_path, "parquet", None)  # type: ignore[arg-type]


def test_a_damaged_parquet_file_is_named(tmp_path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "step_00000001.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(ArtifactError, match="step_00000001"):
        read_step(path)
