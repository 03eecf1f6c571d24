"""What a localise recipe may say: strict settings, in the order the stages run. Runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from doran.base.config import StrictModel, apply_overrides, build, load_yaml
from doran.base.rng import seed_for
from doran.plan.prices import check_budget
from doran.recipes.recipe import TASKS, Corpus, RlStage, Sampling
from doran.train.pretrain import PretrainSettings
from doran.train.sft import SftSettings


class Texts(StrictModel):
    """Where Korean and English running text comes from: files (.txt, .jsonl, .parquet), else doran's generators."""

    korean: list[str] = Field([], description="files of Korean text; none: Korean documents that doran writes itself")
    english: list[str] = Field([], description="files of English text; none: English documents that doran writes")
    field: str = Field("text", description="the field of a row that holds the text")
    generated: int = Field(3000, ge=50, description="documents that doran writes in each language, where it does")
    held_out: float = Field(0.05, gt=0, le=0.5, description="share of the documents that only measure")
    measured: int = Field(200, ge=1, description="at most so many held-out documents are measured on")


class ExtendStage(StrictModel):
    """New tokens."""

    num_new: int = Field(400, ge=1, description="at most so many new Korean tokens")


class Continue(StrictModel):
    """Continued pretraining on a mixture, so that what the model could do before is not forgotten."""

    korean: float = Field(0.5, gt=0, description="share of Korean text, by tokens")
    english: float = Field(0.2, gt=0, description="share of English text")
    replay: float = Field(0.3, ge=0, description="share of doran's own reasoning documents in both languages; 0: none")
    replay_documents: int = Field(4000, ge=1, description="how many such documents are written")
    corpus: Corpus = Corpus()
    window: int = Field(512, ge=8, description="longest part of a document, in tokens")
    train: PretrainSettings


class Tune(StrictModel):
    """Fine-tuning on the start model's own correct replies (in the new tokens), and on your files."""

    sampling: Sampling
    files: list[str] = Field([], description="JSONL of prompt and answer or messages, taken as they are")
    train: SftSettings


class Checks(StrictModel):
    """What is asked before and after."""

    tasks: list[str] = Field(["countdown", "word_problems"], min_length=1, description="tasks, by name")
    items: int = Field(100, ge=2, multiple_of=2, description="held-out questions a task, half in each language")
    samples: int = Field(4, ge=1, description="replies to each")
    temperature: float = Field(0.6, ge=0)
    max_new_tokens: int = Field(400, ge=1)


class LocaliseRecipe(StrictModel):
    """A model folder made better at Korean: measure, extend, continue, tune, reinforce, measure again, export."""

    name: str
    description: str = ""
    model: str = Field("runs/tiny-r1/model", description="the folder to begin with; --model says another")
    seed: int = Field(0, ge=0)
    threads: int = Field(2, ge=1)
    budget: str | None = Field(None, description="stop cleanly once the run has cost this, such as 2 hours")
    tasks: dict[str, dict[str, Any]] = Field(default_factory=dict, description="settings of each task")
    texts: Texts = Texts()
    extend: ExtendStage = ExtendStage()
    pretrain: Continue
    sft: Tune
    rl: RlStage
    evaluate: Checks = Checks()

    _understood_budget = field_validator("budget")(check_budget)

    @model_validator(mode="after")
    def _known_tasks(self) -> Self:
        known = [*self.tasks, *TASKS]
        for name in [*self.evaluate.tasks, *self.rl.tasks, *self.sft.sampling.questions]:
            if name not in known:
                raise ValueError(f"a stage asks for the task {name}, which tasks does not describe")
        return self

    def seed_of(self, stage: str) -> int:
        """The seed of one stage's random streams, 31 bits."""
        return seed_for("localise", self.seed, stage) % 2**31


def load_localise(path: str | Path, overrides: list[str] | None = None) -> LocaliseRecipe:
    """Read the YAML file, apply `a.b=3` overrides; ConfigError names the wrong key and the nearest valid one."""
    return build(LocaliseRecipe, apply_overrides(load_yaml(path), overrides or []), where=str(path))
