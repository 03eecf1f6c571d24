"""Costs over stages and starts, and the receipt that tells them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from doran.base.errors import BudgetReached, ConfigError
from doran.base.files import read_json, write_json
from doran.plan.hardware import Hardware
from doran.plan.meter import Spent
from doran.recipes.ledger import Ledger, name_of, spent_in
from doran.recipes.pipeline import fingerprint
from doran.recipes.receipt import phases, write_receipt
from doran.recipes.recipe import Recipe, load_recipe
from doran.recipes.stages import STAGES


@pytest.fixture
def recipe(repo_root: Path) -> Recipe:
    return load_recipe(repo_root / "recipes" / "smoke.yaml", ["budget=1 hours"])


@pytest.fixture
def run_dir(tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    base = tmp_path / "stages" / "02-base"
    base.mkdir(parents=True)
    write_json(base / "seconds.json", Spent(3000, 5.0, True).as_dict())
    return tmp_path


def test_a_meter_begins_with_what_all_stages_spent_and_corrects_what_is_to_come(run_dir: Path, recipe: Recipe) -> None:
    ledger = Ledger(recipe, run_dir, Hardware())
    base, zero = run_dir / "stages" / "02-base", run_dir / "stages" / "03-zero"
    plain = ledger.open(zero, "zero")
    assert plain.before.seconds == 3000 and plain.later > 0 and plain.reached() is None
    write_json(base / "done.json", {})
    assert ledger.open(zero, "zero").later > plain.later  # 3,000 s for a stage of seconds: the rest will be slow too
    write_json(base / "seconds.json", Spent(3601).as_dict())
    with pytest.raises(BudgetReached, match="1 hours"):
        ledger.open(zero, "zero").check()


def test_old_seconds_without_energy_are_read(tmp_path: Path) -> None:
    write_json(tmp_path / "seconds.json", {"seconds": 7.0})
    assert spent_in(tmp_path) == Spent(7.0, 0.0, False) and spent_in(tmp_path / "none") == Spent()
    assert name_of(Path("04-cold-start")) == "cold_start"


def test_a_budget_changes_no_fingerprint_and_a_wrong_one_is_refused(repo_root: Path, recipe: Recipe) -> None:
    free = load_recipe(repo_root / "recipes" / "smoke.yaml")
    for stage in STAGES[:1]:
        assert fingerprint(free, stage, {}) == fingerprint(recipe, stage, {})
    for wrong in ("many", "-3 KRW", "3 bananas"):
        with pytest.raises(ConfigError):
            load_recipe(repo_root / "recipes" / "smoke.yaml", [f"budget={wrong}"])


def test_a_receipt_tells_energy_money_and_hashes(run_dir: Path, recipe: Recipe) -> None:
    folder = run_dir / "stages" / "04-cold-start"
    folder.mkdir()
    (folder / "samples.jsonl").write_text("{}\n")
    base = run_dir / "stages" / "02-base"
    write_json(base / "receipt.json", {"outputs_sha256": {"model/config.json": "abc"}})
    meter = Ledger(recipe, run_dir, Hardware()).open(folder, "cold_start")
    write_receipt(folder, "cold_start", Spent(10, 650, False), 3, {"kept": 1}, meter, {"base": base})
    receipt = read_json(folder / "receipt.json")
    assert receipt["energy"]["joules"] == 650 and receipt["energy"]["how"].startswith("estimated")
    assert receipt["money"]["usd"] > 0 and receipt["money"]["krw"] > receipt["money"]["usd"]
    assert receipt["inputs_sha256"] == {"base": {"model/config.json": "abc"}}
    assert len(receipt["outputs_sha256"]["samples.jsonl"]) == 64 and receipt["kept"] == 1 and receipt["seed"] == 3


def test_phases_add_up_to_the_stages_seconds() -> None:
    rl = [{"step": 1, "time/sample": 2.0, "time/score": 1.0, "time/update": 3.0, "step_time": 6.5}]
    assert phases(rl, 10) == {"time/sample": 2.0, "time/score": 1.0, "time/update": 3.0, "other": 4.0}
    assert phases([{"step": 1, "step_time": 6.5}], 10) == {"training": 6.5, "other": 3.5}
    assert phases([], 5) == {"other": 5}
