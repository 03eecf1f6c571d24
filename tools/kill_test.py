"""Kills training with `kill -9` at random points, gives the same command again, and compares the final weights.

    python tools/kill_test.py                    # 50 kills over six jobs, then the other kinds of trouble
    python tools/kill_test.py --kills 6 --only grpo --seed 3

Each job runs once undisturbed. Then it is started, killed, started ... until its share of the kills is used up; what is
left at the end must be the undisturbed run's weights, bit for bit, and its rows of metrics.jsonl (times left out).
Every fifth kill waits for the moment when a checkpoint is being written; one of each job waits for the final model.
Then: a torn checkpoint file, a torn row, a full disk, Ctrl-C and SIGTERM. Exit code 3 where anything differs.

A start is a fork of one process that has imported doran, not a new Python: a kill then costs half a second and mostly
hits work, not imports. Linux only; the full disk needs root, for a small file system of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kill_jobs import Job, make_jobs

TIMES = ("step_time", "tokens_per_second", "mfu")
AIM_EVERY = 5
PATIENCE = 1800.0  # seconds after which a job counts as hung


@dataclass
class Tally:
    """What happened to one job."""

    undisturbed: float = 0.0  # seconds of processor time
    kills: int = 0
    landed: dict[str, int] = field(default_factory=dict)
    compared: int = 0
    wrong: list[str] = field(default_factory=list)


class Process:
    """One start of a job in a process of its own; what it says goes to `log`."""

    def __init__(self, job: Job, out: Path) -> None:
        self.log, self.old = out.with_suffix(".log"), marks(out)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _child(job, out, self.log)
        self.began = time.monotonic()
        self.code: int | None = None
        self.worked = 0.0

    def await_work(self, seconds: float) -> None:
        """Return when it has used so much processor time, or is over: other load on the machine does not matter."""
        per_second = os.sysconf("SC_CLK_TCK")
        while not self.poll():
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            if (int(fields[11]) + int(fields[12])) / per_second >= seconds:
                return
            time.sleep(0.002)

    def poll(self) -> bool:
        """Is it over?"""
        if self.code is None:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.code, self.worked = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        return self.code is not None

    def wait(self) -> int:
        """Its exit code. TimeoutError where it hangs."""
        while not self.poll():
            if time.monotonic() - self.began > PATIENCE:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"{self.log}: still running after {PATIENCE:.0f} s")
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False if it was over before."""
        if self.poll():
            return False
        os.kill(self.pid, number)
        return self.wait() == -number if number == signal.SIGKILL else True

    @property
    def said(self) -> str:
        """Its output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


def _child(job: Job, out: Path, log: Path) -> None:
    """In the forked process: run the job and leave."""
    code = 70
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        code = job(out)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def result(out: Path) -> dict[str, Any]:
    """What two runs must have in common: hashes of the weights, and what the logs say apart from times."""
    model = out / "model" / "model.safetensors"
    if not model.exists():
        return {"weights": "none"}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [{k: v for k, v in row.items() if k not in TIMES and not k.startswith("time/")} for row in rows]
    found: dict[str, Any] = {"weights": hashlib.sha256(model.read_bytes()).hexdigest(), "metrics": kept}
    for path in sorted([out / "samples.jsonl", *(out / "rollouts").glob("*")]):
        if path.exists():
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of what is not the same."""
    return [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]


WRITING = {".model-writing": "writing the model", "checkpoints/.writing-*": "writing a checkpoint"}


def marks(out: Path) -> dict[str, set[tuple[str, int]]]:
    """Half-written folders by kind, as (name, inode): those of an earlier kill may still lie there."""
    return {kind: {(path.name, path.stat().st_ino) for path in out.glob(kind)} for kind in WRITING}


def place(out: Path, process: Process) -> str:
    """Where in its life a killed process was."""
    now = marks(out)
    for kind, words in WRITING.items():
        if now[kind] - process.old[kind]:
            return words
    if (out / "model").exists():
        return "after the model"
    return "between" if (out / "metrics.jsonl").exists() else "loading"


def await_kind(process: Process, out: Path, kind: str) -> bool:
    """Wait until the process writes such a folder; False if it ends before."""
    while not process.poll():
        try:
            if marks(out)[kind] - process.old[kind]:
                return True
        except FileNotFoundError:  # renamed under our eyes
            pass
        time.sleep(0.0002)
    return False


def aim_of(number: int) -> str | None:
    """What kill `number` waits for; None: a random moment."""
    if number == 1:
        return ".model-writing"
    return "checkpoints/.writing-*" if number % AIM_EVERY == AIM_EVERY - 1 else None


def torture(name: str, job: Job, folder: Path, kills: int, wanted: dict[str, Any], tally: Tally, seed: int) -> None:
    """`kills` kills of one job; every run that is completed in between, and the last one, is compared."""
    rng, rounds, used, missed = random.Random(f"{seed} {name}"), 0, 0, False
    while used < kills:
        out, rounds = folder / f"{name.replace(' ', '-')}-{rounds}", rounds + 1
        out.mkdir()
        process = Process(job, out)
        while used < kills:
            kind = None if missed else aim_of(used)
            if kind is None:
                process.await_work(rng.uniform(0.0, 0.6 * tally.undisturbed))
            elif not await_kind(process, out, kind):
                missed = True
                break
            if not process.send(signal.SIGKILL):
                break
            used, missed = used + 1, False
            where = place(out, process)
            tally.landed[where] = tally.landed.get(where, 0) + 1
            process = Process(job, out)
        code = process.wait()
        tally.compared += 1
        wrong = [f"exit code {code}: {process.said[-500:]}"] if code else differences(result(out), wanted)
        tally.wrong += [f"round {rounds}: {what}" for what in wrong]
        if not wrong:
            shutil.rmtree(out)
    tally.kills += used


def trouble(job: Job, folder: Path, wanted: dict[str, Any]) -> dict[str, str]:
    """The other kinds of trouble with one job: what happened, "ok" first where all was as it should be."""
    cases: dict[str, Callable[[Job, Path, dict[str, Any]], str]] = {
        "torn checkpoint": torn_checkpoint,
        "torn rows": torn_rows,
        "Ctrl-C": partial(interrupt, number=signal.SIGINT),
        "SIGTERM": partial(interrupt, number=signal.SIGTERM),
        "full disk": full_disk,
    }
    found = {}
    for name, case in cases.items():
        out = folder / name.replace(" ", "-")
        out.mkdir()
        try:
            found[name] = case(job, out, wanted)
        except AssertionError as error:
            found[name] = f"WRONG: {error}"
        finally:
            if is_mounted(out):
                subprocess.run(["umount", str(out)], check=False)
    return found


def _after(job: Job, out: Path, count: int) -> Process:
    """A start that has written `count` checkpoints, and goes on."""
    process = Process(job, out)
    seen: set[Path] = set()
    while len(seen) < count and not process.poll():
        seen |= set((out / "checkpoints").glob("step_*"))
        time.sleep(0.002)
    assert not process.poll(), f"the job ended too early: {process.said[-500:]}"
    return process


def _same(job: Job, out: Path, wanted: dict[str, Any]) -> Process:
    process = Process(job, out)
    code = process.wait()
    assert code == 0, f"the same command ended with {code}: {process.said[-500:]}"
    wrong = differences(result(out), wanted)
    assert not wrong, f"different: {wrong}"
    return process


def torn_checkpoint(job: Job, out: Path, wanted: dict[str, Any]) -> str:
    """The newest checkpoint is cut in half; the one before must be used, with a warning."""
    _after(job, out, 2).send(signal.SIGKILL)
    newest = max((out / "checkpoints").glob("step_*"))
    tensors = newest / "tensors.safetensors"
    os.truncate(tensors, tensors.stat().st_size // 2)
    said = _same(job, out, wanted).said
    assert f"{newest.name} is damaged" in said, f"no warning: {said[-500:]}"
    return f"ok: {newest.name} cut in half, the one before was used, same bits"


def torn_rows(job: Job, out: Path, wanted: dict[str, Any]) -> str:
    """Half a row stands at the end of every JSONL file."""
    _after(job, out, 1).send(signal.SIGKILL)
    files = [path for path in out.glob("*.jsonl")]
    for path in files:
        with open(path, "a", encoding="utf-8") as file:
            file.write('{"step": 3, "lo')
    _same(job, out, wanted)
    return f"ok: half a row in {', '.join(path.name for path in files)}, same bits and rows"


def interrupt(job: Job, out: Path, wanted: dict[str, Any], number: signal.Signals) -> str:
    """The signal must let the step and a checkpoint finish, with exit code 130."""
    process = _after(job, out, 1)
    time.sleep(0.05)
    assert process.send(number), "the job ended too early"
    code = process.wait()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = max((out / "checkpoints").glob("step_*")).name
    assert code == 130 and not (out / "model").exists(), f"exit code {code}: {process.said[-500:]}"
    assert int(last[5:]) == rows[-1]["step"], f"checkpoint {last}, last row {rows[-1]['step']}"
    _same(job, out, wanted)
    return f"ok: exit 130 with a checkpoint of its last step ({rows[-1]['step']}), same bits"


def full_disk(job: Job, out: Path, wanted: dict[str, Any]) -> str:
    """The disk fills up in the middle of a run: one clear line, the earlier checkpoint intact, then the same bits."""
    from doran.train.checkpoint import load_latest

    size = 24 * 2**20
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(out)], capture_output=True)
    if made.returncode:
        return "not tried: mounting a small disk needs root"
    run, filler = out / "run", out / "filler"
    run.mkdir()
    process = _after(job, run, 1)
    with open(filler, "wb", buffering=0) as file:
        try:
            while not process.poll():
                file.write(bytes(4096))
        except OSError:
            pass
    code = process.wait()
    assert code == 1 and "Traceback" not in process.said, f"exit code {code}: {process.said[-800:]}"
    told = next((line for line in process.said.splitlines() if line.startswith("error:")), "")
    assert "disk is full" in told or "No space left" in told, process.said[-500:]
    kept = load_latest(run / "checkpoints")
    assert kept is not None
    filler.unlink()
    _same(job, run, wanted)
    return f"ok: exit 1, one line, checkpoint {kept.step} intact; with space again, same bits"


def is_mounted(folder: Path) -> bool:
    """Is another file system mounted here?"""
    return folder.exists() and folder.stat().st_dev != folder.parent.stat().st_dev


def main() -> int:
    """The table on stdout; exit code 0, or 3 where something was not as it should be."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--kills", type=int, default=50, help="kills over all jobs (50)")
    made.add_argument("--seed", type=int, default=0, help="names the random points")
    made.add_argument("--only", action="append", metavar="JOB", help="these jobs alone; repeat")
    made.add_argument("--folder", type=Path, help="where to work; a temporary folder unless given")
    made.add_argument("--no-trouble", action="store_true", help="kills only")
    args = made.parse_args()
    with tempfile.TemporaryDirectory(prefix="doran-kill-") as temporary:
        return test(args, args.folder or Path(temporary))


def test(args: argparse.Namespace, folder: Path) -> int:
    """Everything, in `folder`."""
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    warm_up()
    jobs = make_jobs(folder)
    jobs = {name: job for name, job in jobs.items() if not args.only or name in args.only}
    tallies = {}
    for place_, (name, job) in enumerate(jobs.items()):
        out, tally = folder / f"{name.replace(' ', '-')}-whole", Tally()
        out.mkdir()
        process = Process(job, out)
        code = process.wait()
        if code:
            sys.exit(f"{name}: the undisturbed run ended with {code}: {process.said[-2000:]}")
        tally.undisturbed, wanted = process.worked, result(out)
        share = args.kills * (place_ + 1) // len(jobs) - args.kills * place_ // len(jobs)
        torture(name, job, folder, share, wanted, tally, args.seed)
        tallies[name] = tally
        print(row(name, tally), file=sys.stderr, flush=True)
    others = {}
    if not args.no_trouble:
        name = next(iter(jobs)) if "grpo" not in jobs else "grpo"
        wanted = result(folder / f"{name}-whole")
        others = trouble(jobs[name], folder, wanted)
    print(report(tallies, others, time.monotonic() - began))
    bad = any(t.wrong for t in tallies.values()) or any(text.startswith("WRONG") for text in others.values())
    return 3 if bad else 0


def warm_up() -> None:
    """Import and measure once, on one thread, what every start would: a fork keeps it."""
    import torch

    from doran.base.device import matmul_peak
    from doran.native.build import library
    from doran.recipes import questions, single  # noqa: F401
    from doran.train import distill, grpo, pretrain, sft  # noqa: F401

    torch.set_num_threads(1)
    for name in ("kernels", "decoder"):
        library(name)
    for dtype in ("float32", "bfloat16"):
        matmul_peak(dtype)


def row(name: str, tally: Tally) -> str:
    """One line of the table."""
    landed = ", ".join(f"{count} {where}" for where, count in sorted(tally.landed.items()))
    same = "all the same bits" if not tally.wrong else f"{len(tally.wrong)} WRONG: {'; '.join(tally.wrong)}"
    return f"| {name} | {tally.undisturbed:.1f} s | {tally.kills} | {landed} | {tally.compared} | {same} |"


def report(tallies: dict[str, Tally], others: dict[str, str], seconds: float) -> str:
    """The result as Markdown."""
    lines = ["| job | undisturbed | kills | where they landed | runs compared | result |", "|---|---|---|---|---|---|"]
    lines += [row(name, tally) for name, tally in tallies.items()]
    if others:
        lines += ["", "| trouble (grpo) | result |", "|---|---|", *(f"| {a} | {b} |" for a, b in others.items())]
    total = sum(t.kills for t in tallies.values())
    return "\n".join([*lines, "", f"{total} kills in {seconds:.0f} s."])


if __name__ == "__main__":
    sys.exit(main())
