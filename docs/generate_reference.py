"""Writes docs/reference/recipe.md and cli.md from the code: the settings' own descriptions and each verb's --help.

    python docs/generate_reference.py            # write both pages
    python docs/generate_reference.py --check    # exit 3 where a page is not what the code says

Not here: any text about a key. It stands in the `Field(description=...)` of the setting, where it is read while coding.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from doran.arch.config import ModelConfig
from doran.cli.verbs import VERBS, module_of
from doran.recipes.recipe import Recipe
from doran.recipes.stages import STAGES
from doran.tasks.arithmetic import ArithmeticConfig
from doran.tasks.choice import ChoiceConfig
from doran.tasks.countdown import CountdownConfig
from doran.tasks.general import GeneralConfig
from doran.tasks.gym import GymConfig
from doran.tasks.jsonl import JsonlConfig
from doran.tasks.words import WordsConfig
from doran.train.distill import OnPolicySettings, TopkSettings
from doran.train.preference import RewardSettings

REFERENCE = Path(__file__).parent / "reference"
MADE = "<!-- made by docs/generate_reference.py: change the code, then run it -->\n\n"
BESIDE = (TopkSettings, OnPolicySettings, RewardSettings)  # of verbs that are no stage of a recipe
TASKS = {
    "countdown": CountdownConfig,
    "arithmetic": ArithmeticConfig,
    "word_problems": WordsConfig,
    "general": GeneralConfig,
    "gsm8k, jsonl": JsonlConfig,
    "choice": ChoiceConfig,
    "gym:NAME": GymConfig,
}


def main() -> None:
    """Write the pages, or check them."""
    pages = {"recipe.md": recipe_page(), "cli.md": cli_page()}
    stale = [name for name, text in pages.items() if read(REFERENCE / name) != text]
    if "--check" in sys.argv[1:]:
        if stale:
            print(f"error: not what the code says: {', '.join(stale)}\nhint: run {__file__}", file=sys.stderr)
            sys.exit(3)
        return
    REFERENCE.mkdir(exist_ok=True)
    for name in stale:
        (REFERENCE / name).write_text(pages[name], encoding="utf-8")
        print(f"wrote {REFERENCE / name}", file=sys.stderr)


def read(path: Path) -> str | None:
    """The page as it is, None where there is none."""
    return path.read_text(encoding="utf-8") if path.exists() else None


# --- the recipe -------------------------------------------------------------------------------------------------


def recipe_page() -> str:
    """Every key of a recipe: the stages first, then each kind of settings once."""
    stages = "\n".join(
        f"| {number} | `{stage.name}` | {quoted(stage.sections)} | {quoted(stage.needs)} |"
        for number, stage in enumerate(STAGES, start=1)
    )
    models = [*settings_in(Recipe), *BESIDE]
    sections = "\n".join(f"## {model.__name__}\n\n{lines(model)}\n" for model in models)
    tasks = "\n".join(f"### {name}\n\n{lines(model)}\n" for name, model in TASKS.items())
    shape = "\n".join(f"| `{f.name}` | {shape_default(f)} |" for f in dataclasses.fields(ModelConfig))
    page = RECIPE_TEXT.format(stages=stages) + sections + SHAPE_TEXT.format(rows=shape) + TASK_TEXT + tasks
    return (MADE + page).rstrip() + "\n"


def quoted(names: tuple[str, ...]) -> str:
    """`a`, `b`, or a dash for nothing."""
    return ", ".join(f"`{name}`" for name in names) or "–"


def shape_default(field: dataclasses.Field[Any]) -> str:
    """A config.json key's default, as JSON."""
    required = field.default is dataclasses.MISSING
    return "required" if required else f"`{json.dumps(field.default, ensure_ascii=False)}`"


def settings_in(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """`model` and every settings model it holds, each once, outer before inner."""
    waiting, seen = [model], set()
    while waiting:
        first = waiting.pop(0)
        if first not in seen:
            seen.add(first)
            yield first
            waiting += [m for field in first.model_fields.values() for m in models_of(field.annotation)]


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The settings models an annotation names."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for inner in typing.get_args(annotation) for model in models_of(inner)]


def lines(model: type[BaseModel]) -> str:
    """The model's docstring and a table of its keys."""
    about = " ".join((model.__doc__ or "").split())
    rows = [
        f"| `{name}` | {typed(field)} | {default(field)} | {(field.description or '').replace('|', 'or')} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join([about, "", "| key | type | default | meaning |", "|---|---|---|---|", *rows])


def typed(field: FieldInfo) -> str:
    """The type as a user thinks of it, with its bounds."""
    bounds = [
        f"{sign} {getattr(rule, attribute):g}"
        for rule in field.metadata
        for kind, sign, attribute in ((Ge, "≥", "ge"), (Gt, ">", "gt"), (Le, "≤", "le"), (Lt, "<", "lt"))
        if isinstance(rule, kind)
    ]
    return ", ".join([type_name(field.annotation), *bounds])


def type_name(annotation: Any) -> str:
    """int, text, one of a few words, settings of a section, ..."""
    if annotation is None or annotation is type(None):
        return "null"
    args, origin = typing.get_args(annotation), typing.get_origin(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(type_name, args))
    if origin in (dict, list):
        return f"{'mapping' if origin is dict else 'list'} of {type_name(args[-1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default(field: FieldInfo) -> str:
    """The default as YAML would spell it; keys without one must be given."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


RECIPE_TEXT = """\
# Recipe keys

A recipe is a YAML file. Scalars are those of YAML 1.2 (`no` is a word, `3e-4` a number); `&name`, `*name` and `<<:`
work; a key may stand only once. An unknown key is refused and the nearest valid one is named. On the command line any
key can be changed: `doran run FILE base.train.steps=600 zero.train.lr=3e-4`. The resolved recipe is kept in the run's
folder; `doran run FILE --dry-run` prints it with sizes, memory and predicted times.

Stages, in the order they run. When a section of a finished stage has changed, or a stage that it reads has, the run
stops and says so; `--redo` makes that stage again.

| | stage | sections it reads | stages it reads |
|---|---|---|---|
{stages}

"""

SHAPE_TEXT = """
## Keys of `model`

The keys of a Hugging Face `config.json`, under their own names. `model_type` is `deepseek_v3`, `llama`, `qwen2` or
`qwen3`; the vocabulary's size and the token ids are filled in from the tokenizer. A known key without effect here is
accepted, an unknown one refused. A default of 0 means: not used, or following from the others as in transformers.

| key | default |
|---|---|
{rows}

"""

TASK_TEXT = """\
## Tasks

Settings of each task: in a recipe under `tasks.NAME`, on the command line of `doran eval`, `rl` and `distill` as
`task.KEY=VALUE`.

"""

# --- the command line ---------------------------------------------------------------------------------------------


def cli_page() -> str:
    """`doran --help` and each verb's."""
    parts = [MADE + CLI_TEXT, f"```\n{help_of()}\n```\n"]
    names = [name for verb in VERBS for name in (verb.name, *subverbs(verb.name))]
    parts += [f"\n## doran {name}\n\n```\n{help_of(*name.split())}\n```\n" for name in names]
    return "".join(parts)


def subverbs(verb: str) -> list[str]:
    """`eval compare` and the like."""
    found = getattr(importlib.import_module(f"doran.cli.{module_of(verb)}"), "SUBVERBS", {})
    return [f"{verb} {name}" for name in found]


def help_of(*verb: str) -> str:
    """What the command itself says, 100 columns wide."""
    settings = {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"}
    settings["DORAN_LANG"] = "en"
    command = [sys.executable, "-m", "doran.cli", *verb, "--help"]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=True).stdout.strip()


CLI_TEXT = """\
# The command line

Data goes to stdout, everything for people to stderr. `KEY=VALUE` arguments change settings. The keys of `train.` are
those of [GrpoSettings](recipe.md#grposettings) (`rl`), [SftSettings](recipe.md#sftsettings) (`sft`, `distill`),
[TopkSettings](recipe.md#topksettings) and [OnPolicySettings](recipe.md#onpolicysettings) (`distill --method`), and
[RewardSettings](recipe.md#rewardsettings) (`reward-model`), the keys of `sampling.` those of
[Sampling](recipe.md#sampling) (`distill`), the keys of `task.` stand [with the tasks](recipe.md#tasks). Exit codes:
[files and exit codes](files-and-exit-codes.md).

"""

if __name__ == "__main__":
    main()
