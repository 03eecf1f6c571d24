"""`doran rl`: GRPO on any model folder and one task. Several tasks in stages are a recipe's work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from doran.base.config import StrictModel, apply_overrides, build
from doran.base.errors import UsageError
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
from doran.cli.environment import EnvironmentFile, load_environment
from doran.cli.loading import Opened, model_folder, open_model
from doran.cli.options import DataFile, Limit, ModelDir, Overrides, TaskName, Threads, use_threads
from doran.cli.rollout_server import RolloutFolder, RolloutServer, remote_engine

REWARDS = ("accuracy=1", "format=0.1")


def main(
    model: ModelDir,
    task: TaskName,
    overrides: Overrides = None,
    data: DataFile = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write; the same command continues what is there.")
    ] = Path("runs/rl"),
    reward: Annotated[
        list[str] | None,
        typer.Option(
            "--reward", metavar="NAME=WEIGHT", help="accuracy, format, regex:PATTERN, FILE.py:FUNCTION, ...; repeat."
        ),
    ] = None,
    environment: EnvironmentFile = None,
    language: Language = "mixed",
    style: Style = "auto",
    pool: Annotated[int, typer.Option("--pool", metavar="N", min=1, help="Training questions to draw from.")] = 4000,
    watch_every: Annotated[
        int, typer.Option("--watch-every", metavar="N", min=0, help="Steps between looks at held-out pass@1; 0: never.")
    ] = 0,
    watch_items: Annotated[
        int, typer.Option("--watch-items", metavar="N", min=1, help="Held-out questions of such a look.")
    ] = 50,
    lora_rank: LoraRank = 0,
    lora_alpha: LoraAlpha = None,
    lora_targets: LoraTargets = None,
    rollouts: RolloutServer = None,
    rollouts_folder: RolloutFolder = None,
    budget: Limit = None,
    threads: Threads = None,
) -> None:
    """Train a model on a task with a checkable answer, by GRPO.

    Each step samples a group of completions for some questions, rewards them, and moves the model towards those that
    beat their group. Settings are train.KEY=VALUE (steps, lr, prompts_per_step, group_size, max_new_tokens, beta,
    seed, ...) and task.KEY=VALUE; task.instructions=true asks for <think> tags, for models that do not know them.
    The learning rate's default suits a few million parameters: give train.lr=1e-6 to a model of billions.
    OUT holds metrics.jsonl, rollouts/ (see doran rollouts), checkpoints/ and at the end model/. Ctrl-C stops after a
    checkpoint, and the same command goes on. Rewards are accuracy=1 and format=0.1 unless given; others are language,
    no_leak, exact, choice, math, regex:PATTERN, json_schema:FILE.json, length:MIN-MAX (words), FILE.py:FUNCTION (a
    function of yours) and judge:URL?model=NAME (another model). --environment gives the model a tool or an opponent.

    Example: doran rl --model DIR --task gsm8k --data train.jsonl.gz --out runs/mine train.steps=200 train.lr=1e-6
    """
    from doran.parallel.launch import here
    from doran.parallel.world import Parallel
    from doran.recipes.questions import Question, dialect, drawing, rewards
    from doran.recipes.single import metered
    from doran.train.grpo import GrpoSettings, run_grpo

    class Settings(StrictModel):
        train: GrpoSettings = GrpoSettings()
        parallel: Parallel = Parallel()
        task: dict[str, Any] = {}

    check_choice("--style", style, STYLES)
    check_choice("--language", language, LANGUAGES)
    weights = reward_weights(reward or list(REWARDS))
    parts = rewards(weights)
    usual = {"train": {"record": "jsonl", "rehearse": True}}
    settings = build(Settings, apply_overrides(usual, overrides or []), where="settings")
    train, folder = settings.train, model_folder(model)
    lora = lora_facts(lora_rank, lora_alpha, lora_targets)
    use_threads(threads)
    with opened_task(task, data, settings.task) as asked:
        items = asked.generate("train", pool, train.seed, language)  # type: ignore[arg-type]
        questions = {task: [Question(item, asked) for item in items]}
        facts: dict[str, Any] = {"verb": "rl", "model": str(model), "task": task}
        facts |= {"data": str(data) if data else None, "pool": pool, "task settings": settings.task}
        facts |= {"rewards": weights, "language": language, "style": style}
        facts |= {"environment": environment} if environment else {}
        facts |= {"rollouts": rollouts} if rollouts else {}
        opened = open_model(folder)
        train = adapt(opened.model, lora, train)
        tokenizer = opened.tokenizer
        assert tokenizer is not None
        remote = remote_engine(rollouts, rollouts_folder, opened)
        talk = load_environment(environment, tokenizer) if environment else None
        world = here(settings.parallel)
        world.once(lambda: claim(out, facts | lora))
        wrap = prompt_style(tokenizer, style)[1]
        look = held_out(opened, asked, wrap, train, watch_items, language) if watch_every else None
        inputs = {"model": folder, **({"data": data} if data else {})}
        with metered(out, "rl", train.seed, budget, inputs, world=world) as meter:
            train_in(
                out, "rl", train.steps,
                lambda progress: run_grpo(
                    opened.model, dialect(tokenizer, wrap), drawing(questions, {task: 1.0}), parts, train, out,
                    progress, beside_weights(tokenizer, folder), watch=look, watch_every=watch_every,
                    environment=talk, world=world, remote=remote,
                ),
                meter,
            )  # fmt: skip


def reward_weights(given: list[str]) -> dict[str, float]:
    """{"accuracy": 1.0} from ["accuracy=1"]. UsageError where it is not NAME=NUMBER."""
    weights: dict[str, float] = {}
    for text in given:
        name, _, number = text.rpartition("=")  # a pattern or a URL may hold one too
        try:
            weights[name] = float(number)
        except ValueError:
            raise UsageError(
                f"--reward {text}: no NAME=WEIGHT", hint="write a name and a number, such as --reward accuracy=1"
            ) from None
    return weights


def held_out(
    opened: Opened, task: Any, style: Any, train: Any, n: int, language: str
) -> Callable[[], dict[str, float]]:
    """A look at held-out questions, which changes nothing: what `eval/pass@1` in metrics.jsonl is."""
    from doran.engine.request import SamplingParams
    from doran.evals.run import evaluate

    items = task.generate("test", n, train.seed, language)
    params = SamplingParams(train.max_new_tokens, seed=train.seed)

    def look() -> dict[str, float]:
        seen = evaluate(opened.model, opened.tokenizer, task, items, 1, params, prompt_style=style, keep_texts=0)
        metrics = seen.summary()["all"]
        return {"eval/pass@1": metrics["pass@1"].value or 0.0, "eval/mean_length": metrics["mean_length"].value or 0.0}

    return look
