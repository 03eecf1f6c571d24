"""When a stage is skipped, refused or made again, and what its fingerprint covers. Whole runs: tests/system."""

from __future__ import annotations

from pathlib import Path

import pytest

from doran.base.errors import ConfigError
from doran.base.files import write_json
from doran.recipes.pipeline import fingerprint, ready
from doran.recipes.recipe import Recipe, load_recipe
from doran.recipes.stages import STAGES


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    folder = tmp_path / "03-zero"
    folder.mkdir()
    write_json(folder / "fingerprint.json", {"fingerprint": "old"})
    return folder


def prints(recipe: Recipe) -> dict[str, str]:
    made: dict[str, str] = {}
    for stage in STAGES:
        made[stage.name] = fingerprint(recipe, stage, made)
    return made


def test_a_finished_stage_is_ready_and_one_of_other_settings_is_refused(stage: Path) -> None:
    assert not ready(stage, "old", redo=False)  # begun, not finished
    write_json(stage / "done.json", {})
    assert ready(stage, "old", redo=False)
    with pytest.raises(ConfigError, match="made with other settings"):
        ready(stage, "new", redo=False)
    assert not ready(stage, "new", redo=True) and not stage.exists()


@pytest.mark.parametrize("made", ["checkpoints", "samples.jsonl"])
def test_half_a_stage_is_not_thrown_away_unasked(stage: Path, made: str) -> None:
    (stage / made).mkdir()
    with pytest.raises(ConfigError, match="made with other settings"):
        ready(stage, "new", redo=False)


def test_a_stage_that_made_nothing_is_begun_again(stage: Path) -> None:
    assert not ready(stage, "new", redo=False) and not stage.exists()


def test_a_changed_setting_changes_its_stage_and_what_follows_from_it(repo_root: Path) -> None:
    path = repo_root / "recipes" / "smoke.yaml"
    before = prints(load_recipe(path))
    assert prints(load_recipe(path)) == before
    after = prints(load_recipe(path, ["rl.train.steps=3"]))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"rl", "reject", "rl_all", "distill", "evaluate"}
    assert all(prints(load_recipe(path, ["seed=1"]))[name] != before[name] for name in before)
