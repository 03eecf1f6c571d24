"""`doran sft`: supervised fine-tuning of any model folder on a file of conversations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.config import StrictModel, apply_overrides, build
from doran.base.errors import DataError
from doran.cli.adapting import LoraAlpha, LoraRank, LoraTargets, adapt, lora_facts
from doran.cli.asking import STYLES, Style, beside_weights, check_choice, claim, prompt_style, train_in
from doran.cli.loading import model_folder, open_model
from doran.cli.options import Limit, ModelDir, OutDir, Overrides, Threads, use_threads

if TYPE_CHECKING:
    from doran.evals.run import PromptStyle
    from doran.text.tokenizer import Tokenizer
    from doran.train.sft import Sample

Message = Mapping[str, Any]
Rename = Annotated[
    list[str] | None,
    typer.Option("--rename", metavar="THEIRS=OURS", help="Read another field, such as question=prompt; repeat."),
]


def main(
    model: ModelDir,
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="JSONL or Parquet: messages, or prompt and completion.")
    ],
    out: OutDir,
    overrides: Overrides = None,
    rename: Rename = None,
    style: Style = "auto",
    lora_rank: LoraRank = 0,
    lora_alpha: LoraAlpha = None,
    lora_targets: LoraTargets = None,
    budget: Limit = None,
    threads: Threads = None,
) -> None:
    """Fine-tune a model on conversations.

    A row holds messages ([{"role": ..., "content": ...}, ...]) or prompt with completion or answer. The model learns
    what the assistant wrote, thoughts included, and nothing else. Settings are train.KEY=VALUE: epochs, lr,
    tokens_per_batch, max_length, seed and more. OUT holds metrics.jsonl, checkpoints/ and at the end model/ and
    receipt.json, which tells what it cost; the same command continues what is there.

    Example: doran sft --model DIR --data mine.jsonl --out runs/mine train.epochs=3 train.lr=1e-5
    """
    from doran.data.conversations import read_conversations
    from doran.parallel.launch import here
    from doran.parallel.world import Parallel
    from doran.recipes.single import metered
    from doran.train.sft import SftSettings, run_sft

    class Settings(StrictModel):
        train: SftSettings = SftSettings()
        parallel: Parallel = Parallel()

    check_choice("--style", style, STYLES)
    settings = build(Settings, apply_overrides({"train": {"rehearse": True}}, overrides or []), where="settings")
    conversations = list(read_conversations(data, renamed(rename or [])))
    if not conversations:
        raise DataError(f"{data}: no rows", hint="give a file with one JSON object a line")
    folder = model_folder(model)
    use_threads(threads)
    lora = lora_facts(lora_rank, lora_alpha, lora_targets)
    facts = {"verb": "sft", "model": str(model), "data": str(data), "rename": rename or [], "style": style}
    opened = open_model(folder)
    assert opened.tokenizer is not None
    train = adapt(opened.model, lora, settings.train)
    world = here(settings.parallel)
    world.once(lambda: claim(out, facts | lora))
    name, wrap = prompt_style(opened.tokenizer, style)
    samples = to_samples(opened.tokenizer, name, wrap, conversations)
    add_files = beside_weights(opened.tokenizer, folder)
    with metered(out, "sft", train.seed, budget, {"model": folder, "data": data}, world=world) as meter:
        train_in(
            out, "sft", None,
            lambda progress: run_sft(opened.model, samples, train, out, progress, add_files, world), meter,
        )


def to_samples(
    tokenizer: Tokenizer, name: str, wrap: PromptStyle, conversations: Iterable[list[Message]]
) -> list[Sample]:
    """(ids, loss_mask) of every assistant turn, in the model's chat template or as plain text."""
    from doran.data.conversations import to_examples

    if name == "chat":
        return [example for messages in conversations for example in to_examples(tokenizer, messages)]
    return [plain_sample(tokenizer, wrap, messages) for messages in conversations]


def plain_sample(tokenizer: Tokenizer, wrap: PromptStyle, messages: list[Message]) -> Sample:
    """One question and its reply as plain text, which has no form for more turns (DataError)."""
    if [message["role"] for message in messages] != ["user", "assistant"]:
        roles = ", ".join(str(message["role"]) for message in messages)
        raise DataError(
            f"a conversation of {roles} cannot be written as plain text",
            hint="plain style takes one user and one assistant message; other conversations need a chat template",
        )
    question, reply = (str(message["content"]) for message in messages)
    if tokenizer.eos_id is None:
        raise DataError("the tokenizer names no end token", hint="set eos_token in tokenizer_config.json")
    prompt, learned = wrap(tokenizer, question), [*tokenizer.encode(reply, specials=True), tokenizer.eos_id]
    return prompt + learned, [False] * len(prompt) + [True] * len(learned)


def renamed(pairs: list[str]) -> dict[str, str]:
    """{theirs: ours} of --rename. DataError where it is not THEIRS=OURS."""
    for pair in pairs:
        if pair.count("=") != 1 or pair.startswith("=") or pair.endswith("="):
            raise DataError(f"--rename {pair}: no THEIRS=OURS", hint="write --rename question=prompt")
    return dict(pair.split("=") for pair in pairs)
