"""What a recipe file may say: strict settings for every stage of R1's route, in the order they run. Runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from doran.arch.config import ModelConfig
from doran.base.config import StrictModel, apply_overrides, build, later, load_yaml
from doran.base.errors import ConfigError
from doran.base.rng import seed_for
from doran.parallel.world import Parallel
from doran.plan.prices import check_budget
from doran.tasks.rewards import check_spec
from doran.tasks.search import SearchStyle
from doran.train.grpo import GrpoSettings
from doran.train.pretrain import PretrainSettings
from doran.train.sft import SftSettings

TASKS = ("countdown", "arithmetic", "word_problems", "general")
"""Tasks that every recipe has, with their defaults unless it describes them."""


class TokenizerStage(StrictModel):
    """The recipe's own byte-level BPE."""

    vocab_size: int = Field(768, description="specials, 256 bytes, whole numbers and merges together")
    whole_numbers_up_to: int = Field(300, description="numbers that are one token each")
    documents: int = Field(4000, description="pretraining documents to learn merges from")


class Corpus(StrictModel):
    """The pretraining text: shares of each kind of document, and how imperfect its searches are."""

    searches: float = Field(0.2, ge=0, description="share of Countdown questions with a search and an answer")
    demonstrations: float = Field(0.42, ge=0, description="share of searches led to a hit, their choices not learned")
    facts: float = Field(0.12, ge=0, description="share of lines of equations")
    checks: float = Field(0.08, ge=0, description="share of drills in telling a hit from a miss")
    openings: float = Field(0.04, ge=0, description="share of drills in using the question's numbers")
    arithmetic: float = Field(0.07, ge=0, description="share of worked arithmetic questions")
    word_problems: float = Field(0.07, ge=0, description="share of worked word problems")
    general: float = Field(0.04, ge=0, description="share of small talk and small questions")
    chat: float = Field(0.2, ge=0, le=1, description="share of dialogues in the chat template, the rest plain")
    search: SearchStyle = SearchStyle()


class BaseStage(StrictModel):
    """Pretraining of a base model; `model` holds config.json keys (vocabulary and token ids are filled in)."""

    model: dict[str, Any]
    corpus: Corpus = Corpus()
    train: PretrainSettings


class RlStage(StrictModel):
    """GRPO: which tasks in which shares, which rewards with which weights."""

    tasks: dict[str, float] = Field(default_factory=lambda: {"countdown": 1.0})
    rewards: dict[str, float] = Field(default_factory=lambda: {"accuracy": 1.0, "format": 0.1})
    pool: int = Field(4000, ge=1, description="training questions made for each task")
    train: GrpoSettings
    watch_every: int = Field(0, ge=0, description="steps between looks at held-out pass@1 (0: never)")
    watch_items: int = Field(100, ge=1, description="held-out questions of such a look")

    @field_validator("rewards")
    @classmethod
    def _known_rewards(cls, weights: dict[str, float]) -> dict[str, float]:
        for spec in weights:
            try:
                check_spec(spec)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return weights


class Sampling(StrictModel):
    """How a model is asked for the samples that a next one learns from."""

    questions: dict[str, int] = Field(description="training questions of each task")
    samples: int = Field(2, ge=1, description="completions of each")
    keep: int = Field(1, ge=1, description="at most so many correct ones of a question are kept, the shortest first")
    temperature: float = Field(0.8, gt=0)
    max_new_tokens: int = Field(320, ge=1)
    general: int = Field(0, ge=0, description="general questions with given answers, added as they are")


class SftStage(StrictModel):
    """Sampling, filtering, fine-tuning."""

    sampling: Sampling
    train: SftSettings


class EvalStage(StrictModel):
    """The last stage: every model on every task."""

    items: int = Field(200, ge=2, description="held-out questions per task, half in each language")
    samples: int = Field(4, ge=1, description="completions per question (k)")
    cons_items: int = Field(
        0, ge=0, multiple_of=2, description="questions of the extra run with 16 completions, for cons@16 and pass@16"
    )
    temperature: float = Field(0.6, ge=0)
    max_new_tokens: int = Field(400, ge=1)


class Recipe(StrictModel):
    """A whole run. Stages run in the order of STAGES (stages.py)."""

    name: str
    description: str = ""
    seed: int = Field(0, ge=0)
    threads: int = Field(
        2, ge=1, description="CPU threads; results are the same for the same number on the same machine"
    )
    budget: str | None = Field(
        None, description="stop cleanly (exit code 5) once the run has cost this: 500,000 KRW, 3 USD, 2 hours, 1 kWh"
    )
    parallel: Parallel = later(Parallel(), description="what the processes of torchrun divide besides the data")
    tasks: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="settings of each task, as `doran eval --task` takes them"
    )
    tokenizer: TokenizerStage = TokenizerStage()
    base: BaseStage
    zero: RlStage
    cold_start: SftStage
    rl: RlStage
    reject: SftStage
    rl_all: RlStage
    student_base: BaseStage
    distill: SftStage
    student_rl: RlStage
    evaluate: EvalStage = EvalStage()

    _understood_budget = field_validator("budget")(check_budget)

    @model_validator(mode="after")
    def _known_tasks(self) -> Self:
        known = [*self.tasks, *TASKS]
        for value in vars(self).values():
            asked = list(value.tasks) if isinstance(value, RlStage) else []
            asked += value.sampling.questions if isinstance(value, SftStage) else []
            if unknown := [name for name in asked if name not in known]:
                raise ValueError(f"a stage asks for the task {unknown[0]}, which tasks does not describe")
        return self

    def seed_of(self, stage: str) -> int:
        """The seed of one stage's random streams, 31 bits."""
        return seed_for("recipe", self.seed, stage) % 2**31


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a YAML recipe, apply `a.b=3` overrides; ConfigError names the wrong key and the nearest valid one."""
    return build(Recipe, apply_overrides(load_yaml(path), overrides or []), where=str(path))


def model_config(
    keys: dict[str, Any], vocab_size: int, bos: int | None, eos: int | None, pad: int | None
) -> ModelConfig:
    """A ModelConfig from a recipe's `model` keys and the tokenizer's facts."""
    return ModelConfig.from_hf(
        {**keys, "vocab_size": vocab_size, "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    )
