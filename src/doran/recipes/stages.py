"""R1's route in eleven stages, each one function of the context. What runs when, and resuming: pipeline.py.

tokenizer -> base -> zero (GRPO on the base) -> cold_start (SFT on Zero's readable samples)
-> rl (language reward added) -> reject (samples of rl, SFT from the base again) -> rl_all (all tasks)
-> student_base -> distill -> student_rl -> evaluate
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from doran.base.errors import DataError
from doran.base.files import write_json
from doran.engine.request import SamplingParams
from doran.evals.run import PromptStyle, chat_style, evaluate, plain_style
from doran.models.decoder import Decoder
from doran.models.families import build
from doran.recipes import sampling
from doran.recipes.context import Context
from doran.recipes.corpus import CorpusWriter, packs
from doran.recipes.questions import dialect, drawing, pools, rewards
from doran.recipes.recipe import BaseStage, RlStage, SftStage, model_config
from doran.text.tokenizer import train_bpe
from doran.train.grpo import run_grpo
from doran.train.pretrain import run_pretrain
from doran.train.sft import run_sft


@dataclass(frozen=True)
class Stage:
    """A named step: the recipe section that configures it, the stages whose artifacts it reads, and its function."""

    name: str
    needs: tuple[str, ...]
    run: Callable[[Context], None]
    sections: tuple[str, ...]


def tokenizer(ctx: Context) -> None:
    """Train the BPE on a sample of the corpus."""
    settings = ctx.recipe.tokenizer

    def make() -> int:
        writer = CorpusWriter(ctx.tasks, ctx.recipe.base.corpus, ctx.seed, pool=min(8000, 2 * settings.documents))
        made = train_bpe(list(writer.texts(settings.documents)), settings.vocab_size, settings.whole_numbers_up_to)
        made.save(ctx.out_dir / "model")
        return made.vocab_size

    ctx.notes["vocab_size"] = ctx.world.once(make)


def pretrain(ctx: Context, settings: BaseStage) -> None:
    """A base model from random weights on the generated corpus."""
    tok = ctx.tokenizer
    model = build(model_config(settings.model, tok.vocab_size, tok.bos_id, tok.eos_id, tok.pad_id), seed=ctx.seed)
    train = settings.train.model_copy(update={"seed": ctx.seed})
    writer = CorpusWriter(ctx.tasks, settings.corpus, ctx.seed)
    with ctx.progress(train.steps) as progress:
        run_pretrain(
            model,
            lambda n: packs(writer, tok, train.tokens_per_batch, n),
            train,
            ctx.out_dir,
            progress,
            ctx.add_files("plain"),
            world=ctx.world,
        )


def reinforce(ctx: Context, settings: RlStage, start: str, style: PromptStyle) -> None:
    """GRPO from the model that stage `start` left."""
    model = ctx.model(start)
    pool = pools(ctx.tasks, list(settings.tasks), settings.pool, ctx.seed)
    train = settings.train.model_copy(update={"seed": ctx.seed})
    talk, draw, judges = dialect(ctx.tokenizer, style), drawing(pool, settings.tasks), rewards(settings.rewards)
    add_files = ctx.add_files("plain" if style is plain_style else "chat")
    look = watch(ctx, settings, model, style) if settings.watch_every else None
    with ctx.progress(train.steps) as progress:
        run_grpo(
            model, talk, draw, judges, train, ctx.out_dir, progress, add_files,
            watch=look, watch_every=settings.watch_every, world=ctx.world,
        )  # fmt: skip


def watch(ctx: Context, settings: RlStage, model: Decoder, style: PromptStyle) -> Callable[[], dict[str, float]]:
    """A look at held-out questions of the first task: it changes nothing, it only shows the climb."""
    task = ctx.tasks[next(iter(settings.tasks))]
    items = task.generate("test", settings.watch_items, ctx.seed)
    params = SamplingParams(settings.train.max_new_tokens, temperature=1.0, seed=ctx.seed)

    def look() -> dict[str, float]:
        seen = evaluate(model, ctx.tokenizer, task, items, 1, params, prompt_style=style, keep_texts=0).summary()["all"]
        values = {f"eval/{name}": seen[name].value for name in ("pass@1", "mean_length")}
        return {name: value for name, value in values.items() if value is not None}

    return look


def fine_tune(
    ctx: Context,
    settings: SftStage,
    teacher: str,
    teacher_style: PromptStyle,
    start: str,
    rewrite_by_rule: bool = False,
) -> None:
    """Collect samples of `teacher` (once; they are kept in samples.jsonl), then SFT the model that `start` left."""
    file = ctx.out_dir / "samples.jsonl"
    if not ctx.world.once(file.exists):
        rows, counts = sampling.collect(
            ctx.model(teacher),
            ctx.tokenizer,
            teacher_style,
            ctx.tasks,
            settings.sampling,
            ctx.seed,
            rewrite_by_rule=rewrite_by_rule,
            world=ctx.world,
        )
        if not counts["kept"]:
            raise DataError(
                f"{ctx.stage}: none of {counts['sampled']} samples of {teacher} passed the filters {counts}",
                hint="train that stage longer",
            )
        ctx.world.once(lambda: _keep(rows, counts, ctx.out_dir))
    samples = sampling.sft_samples(ctx.tokenizer, chat_style, sampling.load_rows(file))
    train = settings.train.model_copy(update={"seed": ctx.seed})
    with ctx.progress(None) as progress:
        run_sft(ctx.model(start), samples, train, ctx.out_dir, progress, ctx.add_files("chat"), ctx.world)


def _keep(rows: list[sampling.Row], counts: dict[str, int], folder: Path) -> None:
    write_json(folder / "samples.counts.json", counts)
    sampling.save_rows(folder / "samples.jsonl", rows)  # last: with it the samples are complete


EVALUATED = {  # label in the report -> (stage, style)
    "base": ("base", plain_style),
    "R1-Zero": ("zero", plain_style),
    "cold start": ("cold_start", chat_style),
    "reasoning RL": ("rl", chat_style),
    "rejection SFT": ("reject", chat_style),
    "R1": ("rl_all", chat_style),
    "student base": ("student_base", plain_style),
    "student, distilled": ("distill", chat_style),
    "student, RL": ("student_rl", plain_style),
}
FULLY = ("base", "R1-Zero", "R1", "student, distilled", "student, RL")
"""Evaluated on every task; the others on Countdown only."""


def evaluate_all(ctx: Context) -> None:
    """Held-out results of every model, one JSON file each: results/LABEL/TASK.json."""
    settings = ctx.recipe.evaluate
    params = SamplingParams(settings.max_new_tokens, temperature=settings.temperature, seed=ctx.seed)
    with ctx.progress(len(EVALUATED)) as progress:
        for number, (label, (stage, style)) in enumerate(EVALUATED.items(), start=1):
            if number % ctx.world.size != ctx.world.rank:
                continue  # another process's model
            model = ctx.model(stage)
            for name in ("countdown", "arithmetic", "word_problems", "general"):
                file = result_file(ctx.out_dir, label, name)
                if file.exists() or (name != "countdown" and label not in FULLY):
                    continue
                items = paired(ctx, name, settings.items if name != "general" else min(60, settings.items))
                evaluate(
                    model,
                    ctx.tokenizer,
                    ctx.tasks[name],
                    items,
                    settings.samples,
                    params,
                    prompt_style=style,
                    max_batch=512,
                ).save(file)
            file = result_file(ctx.out_dir, label, "countdown-16")
            if settings.cons_items and label in FULLY and not file.exists():
                items = paired(ctx, "countdown", settings.cons_items)
                evaluate(
                    model, ctx.tokenizer, ctx.tasks["countdown"], items, 16, params, prompt_style=style, max_batch=512
                ).save(file)
            progress.update(number, model=label)
    ctx.world.gather(None)  # the report needs everybody's


def paired(ctx: Context, task: str, n: int) -> list:
    """n held-out questions, each asked in English and in Korean, so that the gap is measured on the same questions."""
    both = [
        ctx.tasks[task].generate("test", n // 2, ctx.recipe.seed_of("held out"), language) for language in ("en", "ko")
    ]
    return [*both[0], *both[1]]


def result_file(folder: Path, label: str, task: str) -> Path:
    """Where one model's result on one task is kept."""
    return folder / "results" / label.replace(" ", "-").replace(",", "") / f"{task}.json"


STAGES = (
    Stage("tokenizer", (), tokenizer, ("tokenizer", "base.corpus", "tasks")),
    Stage("base", ("tokenizer",), lambda c: pretrain(c, c.recipe.base), ("base", "tasks")),
    Stage("zero", ("base",), lambda c: reinforce(c, c.recipe.zero, "base", plain_style), ("zero", "tasks")),
    Stage(
        "cold_start",
        ("base", "zero"),
        lambda c: fine_tune(c, c.recipe.cold_start, "zero", plain_style, "base", True),
        ("cold_start", "tasks"),
    ),
    Stage("rl", ("cold_start",), lambda c: reinforce(c, c.recipe.rl, "cold_start", chat_style), ("rl", "tasks")),
    Stage(
        "reject", ("base", "rl"), lambda c: fine_tune(c, c.recipe.reject, "rl", chat_style, "base"), ("reject", "tasks")
    ),
    Stage("rl_all", ("reject",), lambda c: reinforce(c, c.recipe.rl_all, "reject", chat_style), ("rl_all", "tasks")),
    Stage("student_base", ("tokenizer",), lambda c: pretrain(c, c.recipe.student_base), ("student_base", "tasks")),
    Stage(
        "distill",
        ("student_base", "rl_all"),
        lambda c: fine_tune(c, c.recipe.distill, "rl_all", chat_style, "student_base"),
        ("distill", "tasks"),
    ),
    Stage(
        "student_rl",
        ("student_base",),
        lambda c: reinforce(c, c.recipe.student_rl, "student_base", plain_style),
        ("student_rl", "tasks"),
    ),
    Stage(
        "evaluate", tuple(dict.fromkeys(stage for stage, _ in EVALUATED.values())), evaluate_all, ("evaluate", "tasks")
    ),
)
