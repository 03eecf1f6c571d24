"""The command itself: help, unknown names, and every error as one line with its exit code."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from doran.base import errors
from doran.cli import app, verbs


def said(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = app.run(args)
    out, err = capsys.readouterr()
    return code, out, err


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from doran.cli import app; code = app.run(['--help']);"
        "heavy = {'torch', 'numpy', 'typer', 'pydantic', 'transformers'} & set(sys.modules);"
        "sys.exit(f'{code} {heavy}' if heavy or code else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in verbs.NAMES:
        assert f"\n  {verb} " in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


@pytest.mark.parametrize("verb", verbs.NAMES)
def test_each_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec(f"doran.cli.{verbs.module_of(verb)}") is None:
        pytest.skip(f"doran {verb} is not written yet")
    code, out, err = said(capsys, verb, "--help")
    assert (code, err) == (0, "") and f"Usage: doran {verb}" in out and "Options:" in out


def test_no_verb_shows_the_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys)
    assert code == 2 and "doran doctor" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version")[:2] == (0, "doran 0.1.0\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["generat"], ["error: unknown verb 'generat'", "hint: did you mean generate?"]),
        (["--jsn"], ["error: unknown option '--jsn'"]),
        (["doctor", "--jsn"], ["error: No such option: --jsn", "--json", "hint: doran doctor --help"]),
        (["generate"], ["error: Missing option '--model'"]),
        (["generate", "--model", "x", "--seed", "one"], ["error: Invalid value for '--seed'"]),
    ],
)
def test_wrong_usage_is_two_lines_and_exit_2(
    args: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, *args)
    assert (code, out) == (2, "") and len(err.splitlines()) == 2
    assert all(word in err for word in words)


def torch_cpu_message() -> RuntimeError:
    return RuntimeError(
        "[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            errors.ConfigError("r.yaml: a: unknown key", hint="did you mean b?"),
            2,
            "error: r.yaml: a: unknown key\nhint: did you mean b?\n",
        ),
        (errors.CheckFailed("no"), 3, "error: no\n"),
        (errors.BudgetReached("time is up"), 5, "error: time is up\n"),
        (errors.Interrupted("stopped after step 3"), 130, "error: stopped after step 3\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (MemoryError(), 4, "error: out of memory\n"),
        (torch_cpu_message(), 4, "error: out of memory\n"),
        (
            ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow.parquet"),
            1,
            "hint: pip install 'doran[data]'\n",
        ),
    ],
)
def test_errors_become_lines_and_exit_codes(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(app, "_dispatch", fail)
    got, out, err = said(capsys, "doctor")
    assert (got, out) == (code, "") and line in err and "Traceback" not in err


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ModuleNotFoundError("x", name="doran.base.typo"), AssertionError()]
)
def test_our_own_mistakes_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(app, "_dispatch", fail)
    with pytest.raises(type(error)):
        app.run(["doctor"])


def test_a_closed_pipe_ends_quietly() -> None:
    command = f"{sys.executable} -m doran.cli --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
