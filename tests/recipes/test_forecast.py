"""The prediction before a run: every stage is there, and it grows with what is asked for."""

from __future__ import annotations

from pathlib import Path

from doran.plan import Hardware
from doran.recipes.forecast import forecast, measure
from doran.recipes.recipe import load_recipe
from doran.recipes.stages import STAGES


def test_every_stage_but_the_tokenizer_is_planned(repo_root: Path) -> None:
    plans = forecast(load_recipe(repo_root / "recipes" / "smoke.yaml"), Hardware())
    assert [plan.name for plan in plans] == [stage.name for stage in STAGES if stage.name != "tokenizer"]
    assert all(plan.total.seconds > 0 and plan.memory.peak > 0 for plan in plans)


def test_more_work_is_predicted_to_take_longer(repo_root: Path) -> None:
    path = repo_root / "recipes" / "smoke.yaml"
    few, many = (
        {plan.name: plan.total.seconds for plan in forecast(load_recipe(path, overrides), Hardware())}
        for overrides in ([], ["base.train.steps=2000", "zero.train.group_size=64", "evaluate.samples=8"])
    )
    assert many["base"] > 5 * few["base"] and many["zero"] > few["zero"] and many["evaluate"] > few["evaluate"]
    assert many["student_base"] == few["student_base"]


def test_lengths_are_measured_on_the_recipes_own_text(repo_root: Path) -> None:
    lengths = measure(load_recipe(repo_root / "recipes" / "smoke.yaml"))
    assert 5 < lengths.question < 60 and 10 < lengths.document < 300
