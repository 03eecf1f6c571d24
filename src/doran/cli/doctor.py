"""`doran doctor`: is this machine fit for doran, how fast is it, and what would mend what is not. Changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from doran.base import device
from doran.base.errors import CheckFailed, UsageError
from doran.cli.options import Json, print_json, say

if TYPE_CHECKING:
    from doran.plan.hardware import Hardware

GIB = 2**30
STATE_WORDS = {"ok": "ok", "warn": "note", "fail": "FAIL"}


@dataclass(frozen=True)
class Check:
    """One thing looked at. `fail`: doran cannot work. `warn`: something is slow or absent. Then `mend` helps."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    mend: str | None = None


def main(
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="Look at a run's RL instead of this machine.")
    ] = None,
    as_json: Json = False,
    save: Annotated[
        bool, typer.Option("--save", help="Keep the measured speed, so that `doran plan` and budgets know it.")
    ] = False,
    disk: Annotated[
        Path, typer.Option("--disk", metavar="DIR", help="Measure the disk that this folder lies on.", readable=False)
    ] = Path("."),
) -> None:
    """Check this machine: Python, torch, cores, memory, disk, compiler and measured speed.

    Says what is wrong in plain words and how to mend it. Exit code 3 when doran cannot work here.
    With --run it reads a run's metrics and says what went wrong in its reinforcement learning, running or finished.
    """
    if run is not None:
        _run(run, as_json)
        return
    if not disk.is_dir():
        raise UsageError(f"--disk {disk}: no such folder", hint="give the folder that models lie in")
    checks = [_python(), _torch(), _cores(), _isa(), _memory(), _disk(), _compiler(), _extras()]
    speeds = Speeds(memory=0.0, disk=_disk_bandwidth(disk))
    if checks[1].state != "fail":
        speeds = replace(speeds, memory=device.memory_bandwidth())
        checks += [_speed("float32"), _speed("bfloat16")]
    checks += speeds.checks(disk)
    failed = [check.name for check in checks if check.state == "fail"]
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in checks], "machine": _machine()})
    else:
        print("\n".join(_lines(checks)))
    if failed:
        raise CheckFailed(f"doran cannot work here yet: {', '.join(failed)}", hint="follow the mends above")
    if save:
        from doran.plan.profiles import save_profile

        say(f"measured and saved: {save_profile(measured_profile(speeds))}")
    if not as_json:
        print("This machine can run doran.")


@dataclass(frozen=True)
class Speeds:
    """Bytes a second; 0 where it could not be measured."""

    memory: float
    disk: float

    def checks(self, folder: Path) -> list[Check]:
        """As lines of the report."""
        found = {"memory speed": (self.memory, ""), "disk speed": (self.disk, f" reading in {folder.resolve()}")}
        return [Check(name, "ok", f"{speed / 1e9:.1f} GB/s{where}") for name, (speed, where) in found.items() if speed]


def _disk_bandwidth(folder: Path) -> float:
    """0 where no file can be written and none is there to read."""
    try:
        return device.disk_bandwidth(folder)
    except OSError:
        return 0.0


def measured_profile(speeds: Speeds | None = None) -> Hardware:
    """This machine as `doran plan` wants it. Watts are not measured but a usual figure per core: edit the file."""
    from doran.plan.hardware import Hardware

    facts = device.machine()
    threads = device.num_threads()
    speeds = speeds or Speeds(device.memory_bandwidth(), _disk_bandwidth(Path.cwd()))
    made = Hardware(
        name=f"{facts['cpu']}, {threads} threads",
        slug="this",
        cores=threads,
        memory=device.available_memory(),
        memory_bandwidth=speeds.memory,
        matmul_flops={dtype: device.matmul_peak(dtype) for dtype in ("float32", "bfloat16")},
        op_seconds=device.op_seconds(),
        watts=10.0 * threads,
        sources={"watts": "10 W a core assumed; everything else measured by doran doctor"},
    )
    return replace(made, disk_bandwidth=speeds.disk) if speeds.disk else made


def _run(run: Path, as_json: bool) -> None:
    """The alarms of every RL stage of a run, each with its mend. Nothing here fails: an alarm is a reason to look."""
    from doran.base.errors import ArtifactError
    from doran.base.runlog import read_metrics
    from doran.train.alarms import alarms

    checks = []
    for folder in [run, *sorted(run.glob("stages/*"))]:
        rows = read_metrics(folder / "metrics.jsonl")
        if not any("frac_reward_zero_std" in row for row in rows):
            continue
        name, now = folder.name, alarms(rows)
        checks += [Check(f"{name}: {alarm.name}", "warn", alarm.seen, alarm.mend) for alarm in now]
        standing = {alarm.name for alarm in now}
        over = {r["alarm"]: r for r in read_metrics(folder / "alarms.jsonl") if r["alarm"] not in standing}
        checks += [
            Check(f"{name}: {r['alarm']}", "ok", f"at step {r['step']}, over since: {r['seen']}") for r in over.values()
        ]
        if not now:
            checks.append(Check(name, "ok", f"{rows[-1]['step']} steps, no alarm stands at the end"))
    if not checks:
        raise ArtifactError(f"{run}: no reinforcement learning in it", hint="give a run's folder, such as runs/latest")
    if as_json:
        standing_anywhere = any(check.state == "warn" for check in checks)
        print_json({"ok": not standing_anywhere, "checks": [asdict(check) for check in checks]})
    else:
        print("\n".join(_lines(checks)))


def _lines(checks: list[Check]) -> list[str]:
    lines = []
    for check in checks:
        lines.append(f"{STATE_WORDS[check.state]:>4}  {check.name:<16} {check.found}")
        if check.mend:
            lines.append(f"{'':>22} -> {check.mend}")
    return lines


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check(
        "python", "ok" if ok else "fail", platform.python_version(), None if ok else "install Python 3.11 or newer"
    )


def _torch() -> Check:
    mend = "install it with the pinned version: pip install -c constraints.txt torch"
    try:
        import torch
    except Exception as error:  # a broken install fails in many ways, and each of them is a finding
        return Check("torch", "fail", f"cannot be imported ({error})", mend)
    numbers = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if numbers < (2, 9):
        return Check("torch", "fail", f"{torch.__version__}, but 2.9 or newer is needed", mend)
    return Check("torch", "ok", torch.__version__)


def _cores() -> Check:
    cores, wanted = device.usable_cores(), os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) < cores:
        return Check(
            "cores", "warn", f"{cores}, but OMP_NUM_THREADS={wanted} lets torch use fewer", "unset OMP_NUM_THREADS"
        )
    if cores < 2:
        return Check("cores", "warn", "1", "recipes are timed for 2 cores: expect about twice the time")
    return Check("cores", "ok", str(cores))


def _isa() -> Check:
    found = device.isa()
    if "bf16" in found or "avx512_bf16" in found or "amx_bf16" in found:
        return Check("instructions", "ok", " ".join(found))
    mend = "float32 is the faster type here: leave dtype at its default, or compare the two speeds below"
    return Check("instructions", "warn", f"{' '.join(found) or 'no vector units known'}; none for bfloat16", mend)


def _memory() -> Check:
    free = device.available_memory()
    found = f"{free / GIB:.1f} GiB free of {device.total_memory() / GIB:.1f} GiB"
    if free < 1 * GIB:
        return Check("memory", "fail", found, "close other programs, or raise the container's memory limit, to 4 GiB")
    if free < 4 * GIB:
        return Check("memory", "warn", found, "recipes/tiny-r1.yaml wants 4 GiB; recipes/smoke.yaml runs in 1 GiB")
    return Check("memory", "ok", found)


def _disk() -> Check:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    found = f"{free / GIB:.1f} GiB free in {here}"
    if not os.access(here, os.W_OK):
        return Check("disk", "fail", f"no permission to write in {here}", "change to a folder of your own")
    if free < 0.5 * GIB:
        return Check("disk", "fail", found, "free some space: a run writes checkpoints and models")
    if free < 2 * GIB:
        return Check("disk", "warn", found, "a full run writes up to 2 GiB: free some space")
    return Check("disk", "ok", found)


def _compiler() -> Check:
    found = next(
        (
            path
            for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++")
            if name and (path := shutil.which(name))
        ),
        None,
    )
    if found:
        return Check("compiler", "ok", found)
    return Check(
        "compiler", "warn", "no C++ compiler", "apt install g++ (without it the fast paths fall back to plain torch)"
    )


def _extras() -> Check:
    parts = {"math": ("sympy", "math_verify"), "data": ("pyarrow",), "gym": ("reasoning_gym",)}
    missing = [extra for extra, modules in parts.items() if not all(importlib.util.find_spec(name) for name in modules)]
    if missing:
        return Check(
            "optional parts",
            "warn",
            f"without {', '.join(missing)}",
            f"when you need them: pip install 'doran[{','.join(missing)}]'",
        )
    return Check("optional parts", "ok", ", ".join(parts))


def _speed(dtype: str) -> Check:
    flops = device.matmul_peak(dtype)
    found = f"{flops / 1e9:,.0f} GFLOP/s in matrix products on {device.num_threads()} threads"
    slow = dtype == "float32" and flops < 20e9
    return Check(
        dtype,
        "warn" if slow else "ok",
        found,
        "this is slow: is another program busy, or the machine throttled?" if slow else None,
    )


def _machine() -> dict[str, Any]:
    try:
        return device.machine()
    except ImportError:
        return {}
