"""`doran distill`: a large model teaches a small one, by its checked answers or by its probabilities.

Here: options, and what is refused before anything is paid or written. The work is put together in distilling.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.config import StrictModel, apply_overrides, build
from doran.base.errors import UsageError
from doran.cli.adapting import LoraAlpha, LoraRank, LoraTargets, lora_facts
from doran.cli.asking import LANGUAGES, STYLES, Language, Style, check_choice, claim, opened_task
from doran.cli.distilling import Job, Server
from doran.cli.loading import model_folder
from doran.cli.options import DataFile, Limit, ModelDir, OutDir, Overrides, TaskName, Threads, use_threads

if TYPE_CHECKING:
    from doran.recipes.recipe import Sampling

METHODS = ("sft", "topk", "on-policy")


def main(
    teacher: Annotated[
        str, typer.Option("--teacher", metavar="DIR|URL", help="The model that is asked: a folder, or http://....")
    ],
    model: ModelDir,
    task: TaskName,
    out: OutDir,
    overrides: Overrides = None,
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="sft, topk or on-policy.")] = "sft",
    data: DataFile = None,
    questions: Annotated[int, typer.Option("--questions", metavar="N", min=1, help="Training questions asked.")] = 500,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", min=1, help="The teacher's completions of each question.")
    ] = 4,
    top_k: Annotated[
        int, typer.Option("--top-k", metavar="K", min=1, help="topk: the teacher's likeliest tokens that are kept.")
    ] = 20,
    language: Language = "mixed",
    teacher_style: Annotated[
        str, typer.Option("--teacher-style", metavar="STYLE", help="How the teacher is asked: auto, chat or plain.")
    ] = "auto",
    style: Style = "auto",
    teacher_model: Annotated[
        str | None, typer.Option("--teacher-model", metavar="NAME", help="The model's name at the server.")
    ] = None,
    teacher_key: Annotated[
        str | None,
        typer.Option("--teacher-key", metavar="VARIABLE", help="Where the server's key is; else OPENAI_API_KEY."),
    ] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", metavar="N", min=1, help="Requests to the server at a time.")
    ] = 8,
    usd_per_mtok: Annotated[
        str | None,
        typer.Option("--usd-per-mtok", metavar="READ,WRITTEN", help="The server's prices for a million tokens."),
    ] = None,
    lora_rank: LoraRank = 0,
    lora_alpha: LoraAlpha = None,
    lora_targets: LoraTargets = None,
    budget: Limit = None,
    threads: Threads = None,
) -> None:
    """Teach a model (the student, --model) with another (the teacher).

    sft (R1's way): the teacher's completions are kept where they are correct, well formed (<think> ... </think>
    answer), not cut off and think in the language of the question; of each question sampling.keep of the shortest.
    They are stored in OUT/samples.jsonl and the student is fine-tuned on them. The teacher may be a server with
    OpenAI's API; every reply is kept in OUT/replies.jsonl and none is asked twice.
    topk: the same samples, but the student learns the teacher's --top-k probabilities of every token.
    on-policy: the student answers, the teacher says how likely it finds each token. Both need the same vocabulary.
    Settings are sampling.KEY=VALUE (keep, temperature, max_new_tokens, general), train.KEY=VALUE as in doran sft (for
    on-policy: steps, prompts_per_step, samples_per_prompt, divergence, ...) and task.KEY=VALUE.

    Example: doran distill --teacher BIG --model SMALL --task gsm8k --data train.jsonl --samples 4 --out runs/small
    """
    from doran.recipes.single import metered

    check_choice("--method", method, METHODS)
    check_choice("--style", style, STYLES)
    check_choice("--teacher-style", teacher_style, STYLES)
    check_choice("--language", language, LANGUAGES)
    settings = settings_of(method, overrides or [])
    sampling = sampling_of(task, questions, samples, settings.sampling)
    server = server_of(teacher, teacher_model, method, teacher_key, usd_per_mtok, budget)
    folder, source = model_folder(model), None if server else model_folder(Path(teacher))
    lora = lora_facts(lora_rank, lora_alpha, lora_targets)
    if method != "sft" and source:
        require_one_vocabulary(source, folder)
    use_threads(threads)
    with opened_task(task, data, settings.task) as judge:
        judge.generate("train", 1, settings.train.seed)  # a wrong file is told before anything is written
        facts: dict[str, Any] = {"verb": "distill", "model": str(model), "teacher": teacher, "task": task}
        facts |= {"style": style, "teacher style": teacher_style, "data": str(data) if data else None}
        facts |= {"language": language, "task settings": settings.task, "sampling": sampling.model_dump(mode="json")}
        facts |= {"teacher model": teacher_model} if server else {}
        facts |= {"method": method} if method != "sft" else {}
        facts |= {"top k": top_k} if method == "topk" else {}
        claim(out, facts | lora)
        inputs = {"model": folder, **({"teacher": source} if source else {}), **({"data": data} if data else {})}
        notes: dict[str, Any] = {}
        with metered(out, "distill", settings.train.seed, budget, inputs, notes) as meter:
            assert meter is not None
            job = Job(
                out, method, folder, style, source, teacher_style, server, parallel, task, judge, sampling,
                settings.train, language, top_k, lora, meter, notes,
            )  # fmt: skip
            job.run()


def settings_of(method: str, overrides: list[str]) -> Any:
    """sampling, train and task from KEY=VALUE, with the trainer's settings that belong to the method."""
    from doran.train.distill import OnPolicySettings, TopkSettings
    from doran.train.sft import SftSettings

    trainer: Any = {"sft": SftSettings, "topk": TopkSettings, "on-policy": OnPolicySettings}[method]

    class Settings(StrictModel):
        sampling: dict[str, Any] = {}
        train: trainer = trainer()
        task: dict[str, Any] = {}

    settings = build(Settings, apply_overrides({}, overrides), where="settings")
    if settings.sampling and method == "on-policy":
        key = next(iter(settings.sampling))
        raise UsageError(f"sampling.{key}: with on-policy the student samples, not the teacher",
                         hint="set train.samples_per_prompt, train.temperature and train.max_new_tokens")  # fmt: skip
    return settings


def sampling_of(task: str, questions: int, samples: int, given: dict[str, Any]) -> Sampling:
    """How the teacher is asked."""
    from doran.recipes.recipe import Sampling

    for key in ("questions", "samples"):
        if key in given:
            raise UsageError(f"sampling.{key} is given as an option", hint=f"use --{key} N")
    asked = {"max_new_tokens": 1024, **given, "questions": {task: questions}, "samples": samples}
    return build(Sampling, asked, where="sampling")


def server_of(
    teacher: str, name: str | None, method: str, key_env: str | None, usd_per_mtok: str | None, budget: str | None
) -> Server | None:
    """The server that --teacher names, None for a folder. UsageError: what does not go with either."""
    from doran.plan.prices import load_prices, parse_budget

    if not teacher.startswith(("http://", "https://")):
        for option, value in (("--teacher-model", name), ("--teacher-key", key_env), ("--usd-per-mtok", usd_per_mtok)):
            if value is not None:
                raise UsageError(f"{option} is for a server, and --teacher {teacher} is a folder",
                                 hint="leave it out, or write --teacher http://...")  # fmt: skip
        return None
    if method != "sft":
        raise UsageError(f"--method {method} needs the teacher's probabilities, and a server gives text",
                         hint="use --method sft, or a teacher's folder")  # fmt: skip
    if name is None:
        raise UsageError(f"--teacher {teacher}: which model?", hint="add --teacher-model NAME")
    if key_env and not os.environ.get(key_env):
        raise UsageError(f"--teacher-key {key_env}: this variable is not set", hint="export the key under this name")
    price = _prices(usd_per_mtok) if usd_per_mtok else load_prices().tokens.get(name)
    if price is None and budget and parse_budget(budget).unit in ("USD", "KRW"):
        raise UsageError(f"--budget {budget}: no price for {name}, so its money cannot be counted",
                         hint="add --usd-per-mtok READ,WRITTEN, or usd_per_million_tokens to prices.yaml")  # fmt: skip
    return Server(teacher, name, key_env or "OPENAI_API_KEY", price)


def _prices(text: str) -> tuple[float, float]:
    try:
        read, written = (float(part) for part in text.split(","))
        if min(read, written) < 0:
            raise ValueError
    except ValueError:
        raise UsageError(f"--usd-per-mtok {text}: no two prices",
                         hint="write READ,WRITTEN in USD for a million tokens, such as 0.5,2") from None  # fmt: skip
    return read, written


def require_one_vocabulary(teacher: Path, student: Path) -> None:
    """DataError where probabilities could not be compared."""
    from doran.text.tokenizer import Tokenizer
    from doran.train.distill import require_same_vocabulary

    require_same_vocabulary(Tokenizer.load(teacher), Tokenizer.load(student))
