"""A recipe's stages in two processes: each is made once, by both, and found finished afterwards."""

from __future__ import annotations

import json

import pytest

from doran.recipes.recipe import load_recipe

SMALL = [
    "threads=1", "tokenizer.documents=40", "base.train.steps=2", "base.train.tokens_per_batch=512",
    "zero.train.steps=1", "zero.train.prompts_per_step=3", "zero.train.group_size=2", "zero.train.max_new_tokens=8",
    "zero.pool=20", "zero.watch_items=2", "zero.watch_every=1",
]  # fmt: skip


def test_stages_run_once_and_are_finished_for_all(pair, tmp_path) -> None:
    told = pair("stages", str(tmp_path), ["tokenizer", "base", "zero"], [*SMALL, "parallel.data=fsdp"])
    assert told == [(True, False)] * 2
    folders = sorted((tmp_path / "smoke" / "stages").iterdir())
    assert [f.name for f in folders] == ["01-tokenizer", "02-base", "03-zero"]
    for folder in folders:
        assert json.loads((folder / "done.json").read_text())["seconds"] > 0
        assert (folder / "receipt.json").exists() and (folder / "model").is_dir()
    assert "eval/pass@1" in json.loads((folders[2] / "metrics.jsonl").read_text())


def test_the_division_is_no_part_of_a_recipes_fingerprint(repo_root) -> None:
    path = repo_root / "recipes" / "smoke.yaml"
    plain, divided = load_recipe(path), load_recipe(path, ["parallel.experts=shard"])
    assert "parallel" not in plain.model_dump() and divided.parallel.experts == "shard"
    assert {**divided.model_dump(), "parallel": None} == {**plain.model_dump(), "parallel": None}


def test_unknown_keys_fail(repo_root) -> None:
    with pytest.raises(Exception, match="parallel.dta: unknown key; did you mean parallel.data"):
        load_recipe(repo_root / "recipes" / "smoke.yaml", ["parallel.dta=fsdp"])
