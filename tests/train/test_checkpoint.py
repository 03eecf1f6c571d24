"""Checkpoints: what was written comes back, damage is noticed, and a full disk harms nothing that was there."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from doran.base.errors import ArtifactError, DoranError
from doran.train import checkpoint

TENSORS = {"model/w": torch.arange(6.0).view(2, 3), "optimizer/step/w": torch.tensor(3.0)}


def save(folder: Path, step: int) -> Path:
    return checkpoint.save(folder, step, {n: t + step for n, t in TENSORS.items()}, {"memory": {"streak": step}})


def test_what_was_saved_comes_back_and_two_are_kept(tmp_path) -> None:
    for step in (1, 2, 10):
        save(tmp_path, step)
    assert checkpoint.steps(tmp_path) == [2, 10]
    found = checkpoint.load_latest(tmp_path)
    assert found is not None and found.step == 10 and found.state == {"memory": {"streak": 10}}
    assert torch.equal(found.under("model")["w"], TENSORS["model/w"] + 10)
    assert found.under("optimizer").keys() == {"step/w"}


def test_nothing_there_is_none(tmp_path) -> None:
    assert checkpoint.load_latest(tmp_path / "no") is None


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a flipped bit": lambda c: flip(c / "tensors.safetensors"),
    "a torn file": lambda c: (c / "tensors.safetensors").write_bytes((c / "tensors.safetensors").read_bytes()[:40]),
    "a missing file": lambda c: (c / "state.json").unlink(),
    "a flipped state": lambda c: flip(c / "state.json"),
    "an empty manifest": lambda c: (c / "manifest.json").write_text(""),
    "an odd manifest": lambda c: (c / "manifest.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_newest_falls_back_with_a_warning(tmp_path, capsys, damage) -> None:
    save(tmp_path, 1)
    damage(save(tmp_path, 2))
    found = checkpoint.load_latest(tmp_path)
    assert found is not None and found.step == 1
    assert "step_00000002 is damaged" in capsys.readouterr().err
    save(tmp_path, 2)  # the run comes by again
    assert checkpoint.load_latest(tmp_path).step == 2


def test_all_damaged_is_an_error_that_names_the_mend(tmp_path) -> None:
    flip(save(tmp_path, 1) / "tensors.safetensors")
    with pytest.raises(ArtifactError, match="delete that folder to start from step 0"):
        checkpoint.load_latest(tmp_path)


def test_leftovers_of_a_killed_writer_are_ignored_and_removed(tmp_path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".writing-00000002").mkdir()
    (tmp_path / ".writing-00000002" / "tensors.safetensors").write_bytes(b"half")
    assert checkpoint.load_latest(tmp_path).step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]


def test_a_full_disk_is_one_clear_line_and_the_previous_stays(tmp_path, monkeypatch) -> None:
    save(tmp_path, 1)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(DoranError, match=r"checkpoint of step 2 .*No space left.*free some disk space"):
        save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]
    assert checkpoint.load_latest(tmp_path).step == 1


LIMITED = """
import signal, sys, torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from doran.base.errors import DoranError
from doran.train import checkpoint
try:
    checkpoint.save(Path(sys.argv[1]), 2, {"w": torch.zeros(100_000)}, {})
except DoranError as error:
    print(error)
    sys.exit(1)
"""


def test_a_real_file_size_limit_is_survived(tmp_path) -> None:
    import doran

    save(tmp_path, 1)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        env={"PYTHONPATH": str(Path(doran.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "cannot write the checkpoint of step 2" in done.stdout, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]
