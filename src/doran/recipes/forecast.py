"""What a recipe will cost, said before it starts: each stage's settings as plan/ wants them. An estimate, nothing runs.

Lengths of documents and questions are measured on a few hundred of them. How long a model will think is not known
before it has learned to: half of max_new_tokens is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from doran.arch.config import ModelConfig
from doran.arch.count import parameters
from doran.base.rng import python_rng
from doran.evals.run import plain_style
from doran.plan import Grpo, Hardware, Pretrain, Sft, StagePlan, plan_grpo, plan_pretrain, plan_sft
from doran.plan.hardware import standard
from doran.plan.memory import Memory, cache_bytes, stored_parameters
from doran.plan.time import NOTHING, Clock, Work
from doran.recipes.corpus import CorpusWriter, encode_document
from doran.recipes.recipe import BaseStage, Recipe, RlStage, SftStage, model_config
from doran.recipes.stages import EVALUATED, FULLY
from doran.tasks.task import get_task
from doran.text.tokenizer import train_bpe

SAMPLE = 300  # documents looked at
STUDENT = ("student_base", "distill", "student_rl")
MAX_BATCH = 512  # of sampling and evaluation


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a pretraining document and of a question."""

    document: int
    question: int


def forecast(recipe: Recipe, hardware: Hardware) -> list[StagePlan]:
    """A plan of every stage but the tokenizer, which takes seconds."""
    lengths = measure(recipe)
    main, student = (shape(recipe, stage) for stage in (recipe.base, recipe.student_base))
    plans = []
    for name in ("base", "zero", "cold_start", "rl", "reject", "rl_all", *STUDENT):
        stage, config = getattr(recipe, name), student if name in STUDENT else main
        if isinstance(stage, BaseStage):
            plans.append(_pretrain(name, stage, config, lengths, hardware))
        elif isinstance(stage, RlStage):
            plans.append(_reinforce(name, stage, config, lengths, hardware))
        else:
            plans.append(_fine_tune(name, stage, main, config, lengths, hardware))
    return [*plans, _evaluate(recipe, main, student, lengths, hardware)]


def shape(recipe: Recipe, stage: BaseStage) -> ModelConfig:
    """The model's config, the vocabulary being full."""
    return model_config(stage.model, recipe.tokenizer.vocab_size, 0, 1, 2)


def measure(recipe: Recipe) -> Lengths:
    """Mean lengths under a tokenizer trained on a sample."""
    names = dict.fromkeys([*recipe.tasks, "countdown", "arithmetic", "word_problems"])
    tasks = {name: get_task(name, **recipe.tasks.get(name, {})) for name in names}
    writer = CorpusWriter(tasks, recipe.base.corpus, recipe.seed, pool=SAMPLE)
    settings = recipe.tokenizer
    tokenizer = train_bpe(writer.texts(SAMPLE), settings.vocab_size, settings.whole_numbers_up_to)
    rng = python_rng("forecast", recipe.seed)
    documents = [encode_document(tokenizer, *writer.document(rng))[0] for _ in range(SAMPLE)]
    questions = [plain_style(tokenizer, item.prompt) for item in writer.items["countdown"]]
    return Lengths(*(round(sum(map(len, texts)) / len(texts)) for texts in (documents, questions)))


def _dtype(bf16: bool) -> str:
    return "bfloat16" if bf16 else "float32"


def _pretrain(name: str, stage: BaseStage, config: ModelConfig, lengths: Lengths, hardware: Hardware) -> StagePlan:
    t = stage.train
    settings = Pretrain(
        steps=t.steps,
        tokens_per_step=t.tokens_per_batch * t.accumulate,
        length=lengths.document,
        micro_tokens=t.tokens_per_batch,
        dtype=_dtype(t.bf16),
        optimizer=t.optimizer,
        activation_checkpointing=t.activation_checkpointing,
        mtp=t.mtp_lambda > 0,
    )
    return plan_pretrain(config, settings, hardware, name=name)


def _reinforce(name: str, stage: RlStage, config: ModelConfig, lengths: Lengths, hardware: Hardware) -> StagePlan:
    t = stage.train
    looks = -(-t.steps // stage.watch_every) if stage.watch_every else 0
    settings = Grpo(
        steps=t.steps,
        prompts_per_step=t.prompts_per_step,
        group_size=t.group_size,
        prompt_tokens=lengths.question,
        completion_tokens=_assumed(t.max_new_tokens),
        max_new_tokens=t.max_new_tokens,
        updates=t.update_epochs,
        reference=t.beta > 0,
        micro_tokens=t.tokens_per_micro_batch,
        max_batch=t.max_batch,
        dtype=_dtype(t.bf16),
        optimizer=t.optimizer,
        activation_checkpointing=t.activation_checkpointing,
        eval_completions=looks * stage.watch_items,
    )
    return plan_grpo(config, settings, hardware, name=name)


def _fine_tune(
    name: str, stage: SftStage, teacher: ModelConfig, config: ModelConfig, lengths: Lengths, hardware: Hardware
) -> StagePlan:
    asked, t = stage.sampling, stage.train
    questions, thought = sum(asked.questions.values()), _assumed(asked.max_new_tokens)
    settings = Sft(
        examples=max(1, questions * min(asked.keep, asked.samples) + asked.general),
        length=lengths.question + thought,
        epochs=t.epochs,
        micro_tokens=t.tokens_per_batch,
        dtype=_dtype(t.bf16),
        optimizer=t.optimizer,
        activation_checkpointing=t.activation_checkpointing,
    )
    plan = plan_sft(config, settings, hardware, name=name)
    rollout = _decode(teacher, questions * asked.samples, lengths, asked.max_new_tokens, hardware)
    return replace(plan, work={"rollout": rollout, **plan.work})


def _evaluate(
    recipe: Recipe, main: ModelConfig, student: ModelConfig, lengths: Lengths, hardware: Hardware
) -> StagePlan:
    e, work = recipe.evaluate, NOTHING
    for label, (stage, _) in EVALUATED.items():
        completions = e.items * e.samples * (4 if label in FULLY else 1)
        completions += 16 * e.cons_items if label in FULLY else 0
        config = student if stage in STUDENT else main
        work += _decode(config, completions, lengths, e.max_new_tokens, hardware)
    longest = lengths.question + e.max_new_tokens
    memory = Memory(weights=4 * stored_parameters(main), cache=cache_bytes(main, MAX_BATCH, longest))
    parts = {"train": NOTHING, "evaluation": work}
    return StagePlan(name="evaluate", counts=parameters(main), steps=len(EVALUATED), memory=memory, work=parts)


def _decode(config: ModelConfig, completions: int, lengths: Lengths, limit: int, hardware: Hardware) -> Work:
    clock = Clock(config=config, hardware=hardware, efficiency=standard(hardware))
    return clock.decode(max(1, completions), lengths.question, _assumed(limit), limit, MAX_BATCH)


def _assumed(max_new_tokens: int) -> int:
    return max(1, max_new_tokens // 2)
