"""`doran pretrain`: next-token training on the user's own text, from a model folder or from random weights.

Not here: generated corpora (recipes/), conversations (`doran sft`), new tokens for an old tokenizer (`doran localise`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from doran.base.config import StrictModel, apply_overrides, build
from doran.base.errors import ConfigError, UsageError
from doran.base.files import read_json
from doran.cli.adapting import LoraAlpha, LoraRank, LoraTargets, adapt, lora_facts
from doran.cli.asking import beside_weights, claim, train_in
from doran.cli.loading import model_folder, open_model
from doran.cli.options import Limit, OutDir, Overrides, Threads, say, use_threads

if TYPE_CHECKING:
    from doran.data.corpus import Corpus
    from doran.data.packing import Packer
    from doran.models.decoder import Decoder
    from doran.text.tokenizer import Tokenizer
    from doran.train.pretrain import PretrainSettings

TOKENIZER_TEXTS = 20_000  # documents that a new tokenizer is made from


def main(
    data: Annotated[
        list[Path], typer.Option("--data", metavar="FILE", help="Text: .txt, .jsonl or .parquet, also .gz. Repeat.")
    ],
    out: OutDir,
    overrides: Overrides = None,
    model: Annotated[Path | None, typer.Option("--model", metavar="DIR", help="Go on from this model folder.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Or begin with random weights: a config.json.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", metavar="DIR", help="With --config; a new one is made unless given.")
    ] = None,
    field: Annotated[str, typer.Option("--field", metavar="NAME", help="Where a row holds its text.")] = "text",
    split_on: Annotated[
        str | None, typer.Option("--split-on", metavar="TEXT", help="Cut .txt files into documents at this text.")
    ] = None,
    window: Annotated[
        int | None, typer.Option("--window", metavar="N", min=2, help="Cut longer documents; as the model's positions.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", min=1, help="Passes over the text, in place of train.steps.")
    ] = None,
    lora_rank: LoraRank = 0,
    lora_alpha: LoraAlpha = None,
    lora_targets: LoraTargets = None,
    budget: Limit = None,
    threads: Threads = None,
) -> None:
    """Train a model on running text: go on with a folder, or begin with random weights.

    A row of JSONL or Parquet is a document; so is a .txt file, unless --split-on cuts it. Documents are shuffled and
    packed; none sees another. Settings are train.KEY=VALUE: steps, lr, tokens_per_batch, optimizer, seed and more. OUT
    holds metrics.jsonl, checkpoints/ and at the end model/; the same command continues what is there.

    Example: doran pretrain --model DIR --data book.txt --out runs/mine --epochs 2 train.lr=1e-5
    """
    from doran.data.corpus import Corpus
    from doran.data.texts import read_texts
    from doran.parallel.launch import here
    from doran.parallel.world import Parallel
    from doran.recipes.single import metered
    from doran.train.pretrain import PretrainSettings, run_pretrain

    class Settings(StrictModel):
        train: PretrainSettings = PretrainSettings()
        parallel: Parallel = Parallel()

    changes = apply_overrides({}, overrides or [])
    settings = build(Settings, changes, where="settings")
    train, world = settings.train, here(settings.parallel)
    lora = lora_facts(lora_rank, lora_alpha, lora_targets)
    if epochs is not None and "steps" in changes.get("train", {}):
        raise UsageError("--epochs and train.steps both say how long", hint="leave one out")
    if lora and config:
        raise UsageError("--lora-rank adapts a model that has learned something", hint="give --model, not --config")
    use_threads(threads)
    start = begin(model, config, tokenizer, lambda: read_texts(data, field, split_on), train.seed)
    train = adapt(start.model, lora, train)
    corpus = Corpus.from_texts(start.tokenizer, read_texts(data, field, split_on))
    length = window or min(train.tokens_per_batch, start.model.config.max_position_embeddings)
    check_window(length, train.tokens_per_batch, start.model)
    if epochs is not None:
        train = train.model_copy(update={"steps": steps_of(corpus, train, length, epochs)})
    facts = {"verb": "pretrain", "data": [str(file) for file in data], "field": field, "split on": split_on}
    paths = {"model": model, "config": config, "tokenizer": tokenizer}
    facts |= {name: str(path) if path else None for name, path in paths.items()}
    world.once(lambda: claim(out, facts | lora))
    passes = train.steps * train.accumulate * train.tokens_per_batch / corpus.num_tokens
    say(f"{len(corpus):,} documents, {corpus.num_tokens:,} tokens; {train.steps:,} steps: about {passes:.1f} passes")
    inputs = {name: path for name, path in paths.items() if path} | {f"data/{file.name}": file for file in data}
    with metered(out, "pretrain", train.seed, budget, inputs, world=world) as meter:
        train_in(
            out, "pretrain", train.steps,
            lambda progress: run_pretrain(
                start.model, lambda n: packer(corpus, train, length).skip(n), train, out, progress, start.add_files,
                identity={"data": corpus.digest, "window": length}, world=world,
            ),
            meter,
        )  # fmt: skip


@dataclass(frozen=True)
class Start:
    """What training begins with; `add_files` writes what belongs beside the weights."""

    model: Decoder
    tokenizer: Tokenizer
    add_files: Callable[[Path], None]


def begin(
    model: Path | None, config: Path | None, tokenizer: Path | None, texts: Callable[[], Iterator[str]], seed: int
) -> Start:
    """A folder as it is, or a new model. UsageError: not one of --model and --config, or a tokenizer for a folder."""
    if (model is None) == (config is None):
        raise UsageError("give --model DIR to go on from, or --config FILE to begin with", hint="one of the two")
    if config is not None:
        return new(config, tokenizer, texts, seed)
    if tokenizer is not None:
        raise UsageError("--tokenizer belongs to --config: a model folder has its own",
                         hint="`doran localise extend` adds tokens to a folder")  # fmt: skip
    assert model is not None
    folder = model_folder(model)
    opened = open_model(folder)
    assert opened.tokenizer is not None
    return Start(opened.model, opened.tokenizer, beside_weights(opened.tokenizer, folder))


def new(config: Path, tokenizer: Path | None, texts: Callable[[], Iterator[str]], seed: int) -> Start:
    """Random weights in the shape of `config`. ConfigError: the tokenizer has more tokens than the model."""
    from doran.arch.config import ModelConfig
    from doran.models.families import build as build_model
    from doran.text.tokenizer import Tokenizer, train_bpe

    if not config.is_file():
        raise UsageError(f"--config {config}: no such file", hint="give a model's config.json")
    shape = ModelConfig.from_hf(read_json(config), where=str(config))
    if tokenizer is not None:
        made = Tokenizer.load(tokenizer)
    else:
        made = train_bpe(islice(texts(), TOKENIZER_TEXTS), shape.vocab_size)
        say(f"made a tokenizer of {made.vocab_size:,} tokens from the text")
    if made.vocab_size > shape.vocab_size:
        raise ConfigError(
            f"the tokenizer has {made.vocab_size} tokens, {config} has vocab_size {shape.vocab_size}",
            hint=f"set vocab_size to {made.vocab_size} or more",
        )
    shape = replace(shape, bos_token_id=made.bos_id, eos_token_id=made.eos_id, pad_token_id=made.pad_id)
    return Start(build_model(shape, seed=seed), made, made.save)


def check_window(length: int, tokens: int, model: Decoder) -> None:
    """ConfigError where a part of a document fits into no pack or has more tokens than the model has positions."""
    positions = model.config.max_position_embeddings
    if length > positions:
        raise ConfigError(f"--window {length}: the model has {positions} positions", hint=f"at most {positions}")
    if length > tokens:
        raise ConfigError(f"--window {length}: more than train.tokens_per_batch ({tokens})", hint="raise that")


def packer(corpus: Corpus, train: PretrainSettings, window: int, epochs: int | None = None) -> Packer:
    """Packs of the shuffled corpus, from the first one on."""
    from doran.data.corpus import Shuffled
    from doran.data.packing import Packer

    return Packer(Shuffled(corpus, train.seed, "pretrain", epochs), train.tokens_per_batch, window)


def steps_of(corpus: Corpus, train: PretrainSettings, window: int, epochs: int) -> int:
    """Updates that see every document `epochs` times."""
    packs = sum(1 for _ in packer(corpus, train, window, epochs))
    return -(-packs // train.accumulate)
