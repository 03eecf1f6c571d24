"""`doran run`: a recipe from its file to a finished run folder, or (--dry-run) to a prediction."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from doran.base.errors import ConfigError, UsageError
from doran.base.files import disk_errors
from doran.cli.options import DryRun, Overrides, say

if TYPE_CHECKING:
    from doran.recipes.recipe import Recipe


def main(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe; ready ones are in recipes/.")],
    overrides: Overrides = None,
    runs_dir: Annotated[
        Path, typer.Option("--runs-dir", metavar="DIR", help="Where runs are kept, each under its recipe's name.")
    ] = Path("runs"),
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Another name for this run than the recipe's.")
    ] = None,
    dry_run: DryRun = False,
    redo: Annotated[
        bool, typer.Option("--redo", help="Discard finished stages that were made with other settings.")
    ] = False,
) -> None:
    """Train a reasoning model from nothing, stage by stage, as a recipe says.

    The run folder holds the recipe, a folder per stage with its model, metrics and receipt, and report.html. A run
    that was stopped, by Ctrl-C or by force, goes on with the same command and ends with the same weights; a finished
    one is left as it is. KEY=VALUE changes any setting of the recipe, such as seed=1 or zero.train.steps=100.

    Example: doran run recipes/tiny-r1.yaml --name second seed=1
    """
    from doran.parallel.launch import here
    from doran.recipes.recipe import load_recipe

    settings = load_recipe(recipe, overrides)
    if name is not None:
        settings = settings.model_copy(update={"name": name})
    check_name(settings.name)
    if dry_run:
        print(prediction(settings), end="")
        return
    run_dir = runs_dir / settings.name
    with disk_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    world = here(settings.parallel)
    with ExitStack() as held:
        if world.first:
            held.enter_context(alone_in(run_dir))
        log = held.enter_context(open(run_dir / "log.txt" if world.first else os.devnull, "a", encoding="utf-8"))

        def note(text: str) -> None:
            say(text)
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            log.flush()

        from doran.recipes.pipeline import run_recipe

        print(run_recipe(settings, runs_dir, redo=redo, say=note, world=world))


def check_name(name: str) -> None:
    """A run's name is a folder's name, and not the one that points to the newest run (ConfigError)."""
    if not name or name in (".", "..", "latest") or "/" in name or "\0" in name:
        raise ConfigError(f"name: {name!r} cannot name a run", hint="use a plain word, such as my-run")


@contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """Two commands in one run folder would write over one another: the second is refused (UsageError)."""
    with (run_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it however the process ends
        except BlockingIOError:
            raise UsageError(
                f"another doran run is at work in {run_dir}", hint="wait for it, or give this one a --name"
            ) from None
        yield


def prediction(recipe: Recipe) -> str:
    """The resolved recipe and what each stage of it should cost on this machine."""
    import yaml

    from doran.base import device
    from doran.plan import Hardware, render
    from doran.recipes.forecast import forecast

    device.set_threads(recipe.threads)
    facts = device.machine()
    peaks = {dtype: device.matmul_peak(dtype) for dtype in ("float32", "bfloat16")}
    hardware = Hardware(
        name=f"{facts['cpu']}, {recipe.threads} threads",
        cores=facts["cores"],
        memory=device.available_memory(),
        matmul_flops=peaks,
    )
    resolved = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return f"{resolved}\n{render(forecast(recipe, hardware), hardware)}"
