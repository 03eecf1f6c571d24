"""Recipe files: the shipped ones are valid, overrides reach every setting, mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from doran.base.errors import ConfigError
from doran.recipes.recipe import load_recipe, model_config


@pytest.mark.parametrize("name", ["smoke", "tiny-r1"])
def test_shipped_recipes_are_valid_and_build_their_models(repo_root: Path, name: str) -> None:
    recipe = load_recipe(repo_root / "recipes" / f"{name}.yaml")
    assert recipe.name == name
    main = model_config(recipe.base.model, recipe.tokenizer.vocab_size, 0, 1, 2)
    student = model_config(recipe.student_base.model, recipe.tokenizer.vocab_size, 0, 1, 2)
    assert main.model_type == "deepseek_v3" and student.model_type == "qwen2"


def test_stages_have_seeds_of_their_own(repo_root: Path) -> None:
    recipes = [load_recipe(repo_root / "recipes" / "smoke.yaml", [f"seed={seed}"]) for seed in (0, 1)]
    seeds = {recipe.seed_of(stage) for recipe in recipes for stage in ("base", "zero", "rl")}
    assert len(seeds) == 6 and all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("zero.train.stps=3", "did you mean zero.train.steps?"),
        ("base.corpus.serches=1", "did you mean base.corpus.searches?"),
        ("reject.sampling.keep=0", "reject.sampling.keep"),
        ("threads=0", "threads"),
        ("zero.rewards.acuracy=1", "did you mean accuracy?"),
        ("rl_all.tasks.gsm8k=1", "the task gsm8k"),
        ("reject.sampling.questions.gsm8k=1", "the task gsm8k"),
        ("evaluate.cons_items=3", "evaluate.cons_items"),
    ],
)
def test_a_wrong_setting_is_named(repo_root: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(repo_root / "recipes" / "smoke.yaml", [override])
    assert words in str(caught.value)
