"""`doran doctor`: plain words for people, one object for scripts, exit 3 when doran cannot work."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from doran.base import device
from doran.cli import app


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "matmul_peak", lambda dtype: 1e11)
    monkeypatch.setattr(device, "disk_bandwidth", lambda folder: 2e9)


def test_people_get_one_line_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in ("python", "torch", "cores", "memory", "disk", "compiler", "float32", "bfloat16", "memory speed"):
        assert name in out
    assert out.endswith("This machine can run doran.\n") and "100 GFLOP/s" in out and "2.0 GB/s reading in" in out


def test_scripts_get_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True and report["machine"]["cores"] >= 1
    assert {"name", "state", "found", "mend"} == set(report["checks"][0])
    assert all(check["mend"] for check in report["checks"] if check["state"] != "ok")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("memory", lambda patch: patch.setattr(device, "available_memory", lambda: 2**20)),
        ("torch", lambda patch: patch.setitem(__import__("sys").modules, "torch", None)),
        ("disk", lambda patch: patch.setattr("os.access", lambda *_: False)),
    ],
)
def test_what_makes_doran_impossible_is_named_and_exits_3(
    name: str,
    change: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(monkeypatch)
    code = app.run(["doctor", "--json"])
    out, err = capsys.readouterr()
    failed = [check for check in json.loads(out)["checks"] if check["state"] == "fail"]
    assert code == 3 and [check["name"] for check in failed] == [name] and failed[0]["mend"]
    assert err.startswith(f"error: doran cannot work here yet: {name}\nhint: ")


def test_a_disk_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["doctor", "--disk", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
