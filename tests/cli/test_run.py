"""`doran run`: the dry run, names, one run at a time, and one clear line for a mistake. Whole runs: tests/system."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from doran.cli import app


@pytest.fixture
def smoke(repo_root: Path) -> Path:
    return repo_root / "recipes" / "smoke.yaml"


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = app.run(["run", *map(str, args)])
    return code, *capsys.readouterr()


def test_a_dry_run_prints_the_resolved_recipe_and_a_prediction_and_writes_nothing(
    smoke: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = (smoke, "zero.train.steps=7", "--dry-run", "--runs-dir", tmp_path / "runs", "--name", "mine")
    code, out, err = run(capsys, *args)
    assert code == 0, err
    resolved, _, table = out.partition("\npredicted for ")
    recipe = yaml.safe_load(resolved)
    assert recipe["name"] == "mine" and recipe["zero"]["train"]["steps"] == 7
    assert recipe["zero"]["train"]["clip_high"] == 0.28  # defaults are filled in
    for word in ("parameters", "memory", "time", "base", "zero", "distill", "evaluate", "together"):
        assert word in table
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["zero.train.stps=3"], 2, "did you mean zero.train.steps?"),
        (["seed=-1"], 2, "seed"),
        (["seed"], 2, "not an override"),
        (["--name", "a/b"], 2, "cannot name a run"),
        (["--name", "latest"], 2, "cannot name a run"),
        (["zero.rewards.acuracy=1"], 2, "accuracy"),
    ],
)
def test_wrong_settings_are_one_line_and_start_nothing(
    smoke: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, words: str
) -> None:
    got, out, err = run(capsys, smoke, *args, "--runs-dir", tmp_path / "runs")
    assert got == code and out == "" and words in err and err.startswith("error: ") and err.count("\n") <= 2
    assert not (tmp_path / "runs").exists()


def test_a_missing_or_broken_recipe_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, tmp_path / "none.yaml")
    assert code == 2 and "no such file" in err
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: x\n  seed: [1\n", encoding="utf-8")
    code, _, err = run(capsys, broken)
    assert code == 2 and "line 2" in err


def test_a_second_command_in_the_same_folder_is_refused(
    smoke: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from doran.cli.run import alone_in

    (tmp_path / "smoke").mkdir()
    with alone_in(tmp_path / "smoke"):
        code, _, err = run(capsys, smoke, "--runs-dir", tmp_path)
    assert code == 2 and "another doran run" in err


def test_ctrl_c_ends_with_130(
    smoke: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from doran.base.errors import Interrupted
    from doran.recipes import pipeline

    def stopped(*args: object, **named: object) -> Path:
        raise Interrupted("stopped after step 3 of 200", hint="run the same command to continue")

    monkeypatch.setattr(pipeline, "run_recipe", stopped)
    code, out, err = run(capsys, smoke, "--runs-dir", tmp_path)
    assert code == 130 and out == "" and "run the same command to continue" in err
