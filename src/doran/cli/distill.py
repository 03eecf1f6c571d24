"""`doran distill`: a teacher answers a task's questions, its correct answers teach a student (R1 s2.4).

Samples are text, so teacher and student may differ in tokenizer and prompt style. Not here: matching logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.config import StrictModel, apply_overrides, build
from doran.base.errors import DataError, UsageError
from doran.base.files import read_json, write_json
from doran.cli.adapting import LoraAlpha, LoraRank, LoraTargets, adapt, lora_facts
from doran.cli.asking import (
    LANGUAGES,
    STYLES,
    Language,
    Style,
    beside_weights,
    check_choice,
    claim,
    opened_task,
    prompt_style,
    train_in,
)
from doran.cli.loading import model_folder, open_model
from doran.cli.options import DataFile, Limit, ModelDir, OutDir, Overrides, TaskName, Threads, say, use_threads
from doran.cli.sft import to_samples

if TYPE_CHECKING:
    from doran.recipes.recipe import Sampling
    from doran.tasks.task import Task


def main(
    teacher: Annotated[Path, typer.Option("--teacher", metavar="DIR", help="Model folder of the model that is asked.")],
    model: ModelDir,
    task: TaskName,
    out: OutDir,
    overrides: Overrides = None,
    data: DataFile = None,
    questions: Annotated[int, typer.Option("--questions", metavar="N", min=1, help="Training questions asked.")] = 500,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", min=1, help="The teacher's completions of each question.")
    ] = 4,
    language: Language = "mixed",
    teacher_style: Annotated[
        str, typer.Option("--teacher-style", metavar="STYLE", help="How the teacher is asked: auto, chat or plain.")
    ] = "auto",
    style: Style = "auto",
    lora_rank: LoraRank = 0,
    lora_alpha: LoraAlpha = None,
    lora_targets: LoraTargets = None,
    budget: Limit = None,
    threads: Threads = None,
) -> None:
    """Teach a model (the student, --model) with another's checked answers.

    The teacher's completions are kept where they are correct, well formed (<think> ... </think> answer), not cut off
    and think in the language of the question; of each question sampling.keep of the shortest. They are stored in
    OUT/samples.jsonl, then the student is fine-tuned on them. Settings are sampling.KEY=VALUE (keep, temperature,
    max_new_tokens, general), train.KEY=VALUE as in doran sft, and task.KEY=VALUE.

    Example: doran distill --teacher BIG --model SMALL --task gsm8k --data train.jsonl --samples 4 --out runs/small
    """
    from doran.recipes.recipe import Sampling
    from doran.recipes.single import metered
    from doran.train.sft import SftSettings, run_sft

    class Settings(StrictModel):
        sampling: dict[str, Any] = {}
        train: SftSettings = SftSettings()
        task: dict[str, Any] = {}

    check_choice("--style", style, STYLES)
    check_choice("--teacher-style", teacher_style, STYLES)
    check_choice("--language", language, LANGUAGES)
    settings = build(Settings, apply_overrides({}, overrides or []), where="settings")
    for key in ("questions", "samples"):
        if key in settings.sampling:
            raise UsageError(f"sampling.{key} is given as an option", hint=f"use --{key} N")
    asked = {"max_new_tokens": 1024, **settings.sampling, "questions": {task: questions}, "samples": samples}
    sampling = build(Sampling, asked, where="sampling")
    folder, source = model_folder(model), model_folder(teacher)
    use_threads(threads)
    with opened_task(task, data, settings.task) as judge:
        judge.generate("train", 1, settings.train.seed)  # a wrong file is told before anything is written
        facts: dict[str, Any] = {"verb": "distill", "model": str(model), "teacher": str(teacher), "task": task}
        facts |= {"style": style, "teacher style": teacher_style, "data": str(data) if data else None}
        facts |= {"language": language}
        facts |= (lora := lora_facts(lora_rank, lora_alpha, lora_targets))
        claim(out, {**facts, "task settings": settings.task, "sampling": sampling.model_dump(mode="json")})
        inputs = {"model": folder, "teacher": source, **({"data": data} if data else {})}
        with metered(out, "distill", settings.train.seed, budget, inputs) as meter:
            rows = teacher_rows(out, source, teacher_style, task, judge, sampling, settings.train.seed, language)
            meter.check()
            opened = open_model(folder)
            assert opened.tokenizer is not None
            name, wrap = prompt_style(opened.tokenizer, style)
            learned = to_samples(opened.tokenizer, name, wrap, [row["messages"] for row in rows])
            add_files = beside_weights(opened.tokenizer, folder)
            train = adapt(opened.model, lora, settings.train)
            train_in(
                out, "distill", None,
                lambda progress: run_sft(opened.model, learned, train, out, progress, add_files), meter,
            )  # fmt: skip


def teacher_rows(
    out: Path, source: Path, style: str, name: str, task: Task, sampling: Sampling, seed: int, language: str
) -> list[dict[str, Any]]:
    """The kept samples: made once and stored, read on a second start. DataError where none passed the filters."""
    from doran.recipes.sampling import collect, load_rows, save_rows
    from doran.tasks.task import get_task

    file = out / "samples.jsonl"
    if not file.exists():
        opened = open_model(source)
        assert opened.tokenizer is not None
        wrap = prompt_style(opened.tokenizer, style)[1]
        rows, counts = collect(
            opened.model, opened.tokenizer, wrap, {name: task, "general": get_task("general")}, sampling, seed,
            rewrite_by_rule=False, max_batch=128, language=language,  # type: ignore[arg-type]
        )  # fmt: skip
        write_json(out / "samples.counts.json", counts)
        if not rows:
            told = ", ".join(f"{number} {why}" for why, number in counts.items() if number and why != "sampled")
            raise DataError(
                f"none of {counts['sampled']} samples of {source} passed the filters ({told})",
                hint="ask more questions, allow more sampling.max_new_tokens, or take a better teacher",
            )
        save_rows(file, rows)
    counts = read_json(out / "samples.counts.json")
    say(f"kept {counts['kept']} of {counts['sampled']} samples: {file}")
    return load_rows(file)
