"""Running a recipe: stages in order, each with a fingerprint, skipped when finished, resumed when half done.

    runs/NAME/report.html, recipe.yaml
    runs/NAME/stages/NN-name/{model/, checkpoints/, metrics.jsonl, samples.jsonl, receipt.json, done.json}

A stage's fingerprint hashes its settings and the fingerprints of the stages it reads. A finished stage whose
fingerprint differs is not overwritten: the run refuses, unless `redo` says so. Killed at any moment, the same command
goes on and ends with the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from doran.base.device import release_memory, set_threads
from doran.base.errors import ConfigError
from doran.base.files import read_json, write_atomic, write_json
from doran.parallel.world import SOLO, World
from doran.recipes.context import Context, clear
from doran.recipes.ledger import Ledger, charged
from doran.recipes.receipt import write_receipt
from doran.recipes.recipe import Recipe
from doran.recipes.reporting import write_run_report
from doran.recipes.stages import STAGES, Stage

Say = Callable[[str], None]


def run_recipe(
    recipe: Recipe, runs_dir: Path, *, redo: bool = False, say: Say = print, world: World = SOLO
) -> Path:
    """Run what is left of `recipe` in runs_dir/NAME, return that folder. `redo`: discard stages of other settings.

    Of several processes all run every stage, and the first alone writes.
    """
    set_threads(recipe.threads)
    run_dir = runs_dir / recipe.name
    world.once(lambda: _begin(recipe, runs_dir))
    ctx = Context(recipe, run_dir, world=world)
    ledger = Ledger(recipe, run_dir)
    did_anything = run_stages(ctx, STAGES, ledger, {}, redo, say)
    world.once(lambda: _end(ctx, did_anything, say))
    return run_dir


def _begin(recipe: Recipe, runs_dir: Path) -> None:
    run_dir = runs_dir / recipe.name
    run_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(
        run_dir / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    )
    point(runs_dir / "latest", recipe.name)


def _end(ctx: Context, did_anything: bool, say: Say) -> None:
    run_dir = ctx.run_dir
    point(run_dir / "model", str((ctx.folders["rl_all"] / "model").relative_to(run_dir)))
    report = run_dir / "report.html"
    if did_anything or not report.exists():
        write_run_report(ctx, report)
        say(f"report: {report}")
    else:
        say(f"nothing to do: {ctx.recipe.name} is finished; report: {report}")


def run_stages(
    ctx: Context, stages: Sequence[Stage], ledger: Ledger, prints: dict[str, str], redo: bool, say: Say
) -> bool:
    """Run what is left of `stages`; whether anything was. `prints`: fingerprints of what comes from outside."""
    did_anything = False
    for number, stage in enumerate(stages, start=1):
        folder = ctx.run_dir / "stages" / f"{number:02d}-{stage.name.replace('_', '-')}"
        prints[stage.name] = fingerprint(ctx.recipe, stage, prints)
        ctx.folders[stage.name], ctx.stage, ctx.notes = folder, stage.name, {}
        if ctx.world.once(lambda: ready(ctx.out_dir, prints[ctx.stage], redo)):
            continue
        did_anything = True
        if ctx.world.first:
            ctx.meter = ledger.open(folder, stage.name)
            ctx.meter.check()
        say(f"[{number}/{len(stages)}] {stage.name}")
        run_stage(ctx, stage, prints[stage.name])
    return did_anything


def run_stage(ctx: Context, stage: Stage, print_: str) -> None:
    """One stage, its receipt and its finished marker. Seconds add up over interruptions."""
    if not ctx.world.first:
        stage.run(ctx)
        release_memory()
        return
    folder = ctx.out_dir
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "fingerprint.json", {"fingerprint": print_})
    assert ctx.meter is not None
    with charged(ctx.meter, folder) as total:
        try:
            stage.run(ctx)
        finally:
            spent = total()
            release_memory()
    inputs = {name: ctx.folders[name] for name in stage.needs}
    write_receipt(folder, stage.name, spent, ctx.seed, ctx.notes, ctx.meter, inputs)
    write_json(folder / "done.json", {"fingerprint": print_, "seconds": spent.seconds})


def ready(folder: Path, print_: str, redo: bool) -> bool:
    """Is the stage finished with these very settings? One of other settings is an error, or discarded with `redo`.

    A stage that failed before it made anything worth keeping is discarded without being asked.
    """
    marker = folder / "fingerprint.json"
    if marker.exists() and read_json(marker)["fingerprint"] != print_:
        if not redo and any((folder / made).exists() for made in ("done.json", "checkpoints", "samples.jsonl")):
            raise ConfigError(
                f"{folder} was made with other settings",
                hint="give the recipe another name, or add --redo to discard and make it again",
            )
        clear(folder)
    return (folder / "done.json").exists()


def fingerprint(recipe: Recipe, stage: Stage, prints: dict[str, str]) -> str:
    """Hash of the stage's name, seed, settings and inputs."""
    settings = recipe.model_dump(mode="json")
    sections = {section: _dig(settings, section) for section in stage.sections}
    facts = [stage.name, recipe.seed_of(stage.name), recipe.threads, sections, [prints[name] for name in stage.needs]]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _dig(settings: dict[str, Any], dotted: str) -> Any:
    value: Any = settings
    for key in dotted.split("."):
        value = value[key]
    return value


def point(link: Path, target: str) -> None:
    """Make or move a symbolic link in one step: runs/latest -> NAME, runs/NAME/model -> the R1 model's folder."""
    beside = link.with_name(f".{link.name}-new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, link)
