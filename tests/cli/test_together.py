"""torchrun: the same command in two processes gives the same losses, one voice, and one word about an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import doran
from doran.arch.presets import tiny
from doran.base.runlog import read_metrics
from doran.cli import app

pytestmark = pytest.mark.timeout(600)

FAILS_ON_ONE = """
import os, sys
from doran.base.errors import OutOfMemory
from doran.cli import app
from doran.train import pretrain

def lm_step(*args):
    if os.environ["RANK"] == "1":
        raise OutOfMemory("the second machine is full", hint="buy another")
    return real(*args)

real, pretrain.lm_step = pretrain.lm_step, lm_step
sys.exit(app.run(sys.argv[1:]))
"""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """`doran pretrain` on a small text, but for --out."""
    (tmp_path / "text.txt").write_text("\n\n".join(f"{a} plus {b} is {a + b}." for a in range(12) for b in range(12)))
    shape = tiny(vocab_size=1400, hidden_size=32, num_hidden_layers=2, num_nextn_predict_layers=0)
    (tmp_path / "config.json").write_text(json.dumps(shape.to_hf()))
    return [
        "pretrain", "--config", str(tmp_path / "config.json"), "--data", str(tmp_path / "text.txt"),
        "--split-on", "\n\n", "--window", "64", "--threads", "1",
        "train.steps=3", "train.bf16=false", "train.tokens_per_batch=256",
    ]  # fmt: skip


def torchrun(*command: str) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environ = os.environ | {"PYTHONPATH": str(Path(doran.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *launcher, *command], capture_output=True, text=True, env=environ)


def test_two_processes_do_what_one_does(arguments, tmp_path, capsys) -> None:
    assert app.run([*arguments, "--out", str(tmp_path / "one")]) == 0
    capsys.readouterr()
    out = tmp_path / "two"
    done = torchrun("-m", "doran.cli", *arguments, "parallel.data=fsdp", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out / 'model'}\n"
    assert done.stderr.count("made a tokenizer") == 1
    one, two = ([row["loss"] for row in read_metrics(o / "metrics.jsonl")] for o in (tmp_path / "one", out))
    assert two == pytest.approx(one, abs=2e-5) and len(two) == 3
    assert {p.name for p in out.iterdir()} == {p.name for p in (tmp_path / "one").iterdir()}


def test_the_process_that_fails_says_why_and_all_end(arguments, tmp_path) -> None:
    script = tmp_path / "fails.py"
    script.write_text(FAILS_ON_ONE)
    done = torchrun(str(script), *arguments, "--out", str(tmp_path / "out"))
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert said == ["error: the second machine is full"] and "exitcode  : 4" in done.stderr
    assert not (tmp_path / "out" / "model").exists()


def test_a_verb_for_one_process_says_so(capsys, monkeypatch) -> None:
    from contextlib import contextmanager

    from doran.cli import together

    @contextmanager
    def alone():
        yield

    monkeypatch.setattr(together, "joined", alone)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert app.run(["doctor"]) == 2
    assert "doran doctor is the work of one process" in capsys.readouterr().err
