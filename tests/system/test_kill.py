"""tools/kill_test.py in small: a few kills of one job, and the other kinds of trouble. In full: docs/bench.md."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import doran

ROOT = Path(__file__).resolve().parents[2]


def test_kill_9_torn_files_a_full_disk_and_ctrl_c_cost_no_bit(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(doran.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tools" / "kill_test.py"), "--kills", "4", "--only", "grpo"]
    done = subprocess.run([*command, "--folder", str(tmp_path)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "4 kills in" in done.stdout and "all the same bits" in done.stdout
    assert "WRONG" not in done.stdout and done.stdout.count("| ok: ") >= 4
