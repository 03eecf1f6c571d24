"""`doran card`: write the model card, README.md of a model folder, from what is known. Measures nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from doran.base.errors import UsageError
from doran.base.files import read_json, write_atomic
from doran.cli.loading import model_folder
from doran.cli.options import ModelDir, say


def main(
    model: ModelDir,
    results: Annotated[
        list[Path] | None, typer.Option("--eval", metavar="FILE", help="A result of `doran eval --out`. Repeat.")
    ] = None,
    licence: Annotated[str | None, typer.Option("--license", metavar="ID", help="Such as apache-2.0.")] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", metavar="NAME", help="The model that this one was trained from.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="TEXT", help="Training data and its licence. Repeat.")
    ] = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option("--receipt", metavar="FILE", help="A stage's receipt.json; else those of the run are found."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Its name; else the folder's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a README.md that doran did not write.")] = False,
) -> None:  # fmt: skip
    """Write README.md beside a model's weights: licence, base model, data, cost, scores, in Hugging Face's form.

    The same command writes it again after a new evaluation. What you do not tell is said to be unknown.

    Example: doran card --model runs/mine/model --eval result.json --license apache-2.0 --data "our FAQ, internal"
    """
    from doran.evals.card import MARK, Card
    from doran.evals.run import EvalResult

    folder = model_folder(model)
    file = folder / "README.md"
    if file.exists() and MARK not in file.read_text(encoding="utf-8", errors="replace") and not force:
        raise UsageError(f"{file} was not written by doran", hint="add --force to replace it")
    card = Card(
        name=name or named(folder), config=read_json(folder / "config.json"), parameters=parameters(folder),
        license=licence, base_model=base_model, data=data or [],
        receipts=[read_json(path) for path in receipts or run_receipts(folder)],
        results=[EvalResult.load(path) for path in results or []],
    )  # fmt: skip
    write_atomic(file, card.render())
    say("written; open it and add what only you know")
    print(file)


def named(folder: Path) -> str:
    """The folder's own name; of the folder above it where that says more than `model`."""
    folder = folder.resolve()
    return folder.name if folder.name != "model" else folder.parent.name


def parameters(folder: Path) -> int | None:
    """Parameters by config.json, None where it names no family that is known."""
    from doran.arch.config import load_config
    from doran.arch.count import parameters as counted
    from doran.base.errors import DoranError

    try:
        return counted(load_config(folder)).total
    except DoranError:
        return None


def run_receipts(folder: Path) -> list[Path]:
    """Receipts of the stages up to this model: runs/NAME/stages/NN-name/{model, receipt.json}."""
    stage = folder.resolve().parent
    found: list[Any] = sorted(stage.parent.glob("[0-9][0-9]-*/receipt.json"))
    return [path for path in found if path.parent.name <= stage.name] if stage.parent.name == "stages" else []
