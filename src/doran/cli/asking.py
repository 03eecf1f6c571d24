"""What the verbs that ask a task's questions share: the task from options, the prompt style, settings from KEY=VALUE.

Not here: what a task is (tasks/), how prompts are wrapped (evals/run.py), and options' help texts (options.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.errors import ConfigError, UsageError, suggest
from doran.base.files import read_json, write_json
from doran.cli.options import say

if TYPE_CHECKING:
    from doran.base.runlog import Meter, Progress
    from doran.evals.run import PromptStyle
    from doran.tasks.task import Task
    from doran.text.tokenizer import Tokenizer

STYLES = ("auto", "chat", "plain")
LANGUAGES = ("en", "ko", "mixed")

Style = Annotated[
    str,
    typer.Option("--style", metavar="STYLE", help="chat: the chat template; plain: User: ... Assistant:; or auto."),
]
Language = Annotated[
    str, typer.Option("--language", metavar="LANG", help="Questions in en, ko or mixed, where the task has both.")
]


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """UsageError naming the option and the nearest choice."""
    if value not in choices:
        raise UsageError(f"{option}: got {value!r}", hint=suggest(value, choices))


@contextmanager
def opened_task(name: str, data: Path | None, settings: Mapping[str, Any]) -> Iterator[Task]:
    """The task `name`; its helper processes end with the block. UsageError where --data does not fit it."""
    from doran.tasks.task import get_task, takes_file

    given = dict(settings)
    if data is not None:
        if not takes_file(name):
            raise UsageError(
                f"--data: the task {name} makes its own questions", hint="leave --data out, or use --task jsonl"
            )
        given["data"] = str(data)
    task = get_task(name, **given)
    try:
        yield task
    finally:
        if hasattr(task, "close"):
            task.close()


def prompt_style(tokenizer: Tokenizer, wanted: str) -> tuple[str, PromptStyle]:
    """(name, style): `auto` is chat where the folder has a template. UsageError: chat asked for, but there is none."""
    from doran.evals.run import chat_style, plain_style

    name = ("plain" if tokenizer.chat_template is None else "chat") if wanted == "auto" else wanted
    if name == "chat" and tokenizer.chat_template is None:
        raise UsageError("--style chat: this model has no chat template", hint="use --style plain")
    return name, chat_style if name == "chat" else plain_style


def claim(out: Path, facts: dict[str, Any]) -> None:
    """Write down what is made in `out`, so that another command does not continue it by mistake (ConfigError)."""
    file = out / "command.json"
    if file.exists():
        before = read_json(file)
        changed = [key for key in sorted(facts.keys() | before.keys()) if facts.get(key) != before.get(key)]
        if changed:
            key = changed[0]
            raise ConfigError(
                f"{out} was made with {key} {before.get(key)!r}, now it is {facts.get(key)!r}",
                hint="give another --out, or delete that folder to start again",
            )
    elif (out / "config.json").exists() or (out / "checkpoints").exists():
        raise UsageError(f"--out {out}: this folder already holds a model or another run", hint="give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, facts)


def beside_weights(tokenizer: Tokenizer, source: Path) -> Callable[[Path], None]:
    """What a trained folder takes over from the one it came from: the tokenizer, and how generation ends."""

    def add(folder: Path) -> None:
        tokenizer.save(folder)
        if (source / "generation_config.json").is_file():
            shutil.copy(source / "generation_config.json", folder)

    return add


def train_in(
    out: Path, name: str, steps: int | None, run: Callable[[Progress], Path], meter: Meter | None = None
) -> None:
    """Run a trainer with progress and cost on stderr, and print the model folder that it leaves in `out`."""
    from doran.base.runlog import Progress

    finished = (out / "model").exists()
    with Progress(name, steps, meter=meter) as progress:
        made = run(progress)
    if finished:  # with other settings the trainer would have refused
        say(f"nothing to do: {made} is finished")
    print(made)
