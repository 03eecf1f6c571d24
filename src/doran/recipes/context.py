"""What a stage is given: the recipe, its own folder, the artifacts of earlier stages, and where to show progress."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from doran.base.files import write_atomic
from doran.base.runlog import Progress
from doran.models.decoder import Decoder
from doran.models.weights import load_model
from doran.parallel.world import SOLO, World
from doran.plan.meter import Meter
from doran.recipes.recipe import TASKS, Recipe
from doran.tasks.task import Task, get_task
from doran.text.tokenizer import Tokenizer


@dataclass
class Context:
    """One run. `folders` maps finished and running stages to their folders."""

    recipe: Recipe
    run_dir: Path
    folders: dict[str, Path] = field(default_factory=dict)
    stage: str = ""
    notes: dict[str, Any] = field(default_factory=dict)  # what the running stage wants in its receipt
    meter: Meter | None = None  # what the run has cost so far, in the process that writes
    world: World = SOLO

    @property
    def out_dir(self) -> Path:
        """Folder of the running stage."""
        return self.folders[self.stage]

    @property
    def seed(self) -> int:
        """Seed of the running stage."""
        return self.recipe.seed_of(self.stage)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer, once its stage is finished."""
        return Tokenizer.load(self.folders["tokenizer"] / "model")

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The recipe's tasks, with the general one."""
        names = dict.fromkeys([*self.recipe.tasks, *TASKS])
        return {name: get_task(name, **self.recipe.tasks.get(name, {})) for name in names}

    def model(self, stage: str) -> Decoder:
        """A fresh copy of the model that a stage left."""
        return load_model(self.folders[stage] / "model")

    def progress(self, steps: int | None, detail: str = "") -> Progress:
        """Progress display named after the stage."""
        return Progress(f"{self.stage}{' ' + detail if detail else ''}", steps, meter=self.meter)

    def add_files(self, mode: str) -> Callable[[Path], None]:
        """What goes beside the weights: the tokenizer; a model that knows no chat tokens gets a plain template."""

        def add(folder: Path) -> None:
            self.tokenizer.save(folder)
            if mode == "plain":
                set_chat_template(folder, PLAIN_TEMPLATE)

        return add


PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}Assistant:{{ m['content'].split('</think>')[-1] }}\n"
    "{% else %}User: {{ m['content'] }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""Base and R1-Zero models were asked in plain text (R1 table 1); with this template `doran chat` asks them so too."""


def set_chat_template(folder: Path, template: str) -> None:
    """Replace the chat template of a saved tokenizer folder."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    beside = folder / "chat_template.jinja"
    if beside.exists():
        write_atomic(beside, template)
    config["chat_template"] = template
    write_atomic(path, json.dumps(config, ensure_ascii=False, indent=2))


def clear(folder: Path) -> None:
    """Remove what an earlier, different run of a stage left."""
    shutil.rmtree(folder, ignore_errors=True)
