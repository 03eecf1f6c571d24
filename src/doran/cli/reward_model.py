"""`doran reward-model`: a model that scores replies, trained on pairs of which somebody preferred the first."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.config import StrictModel, apply_overrides, build
from doran.base.errors import DataError, UsageError
from doran.base.files import read_json
from doran.cli.asking import STYLES, Style, beside_weights, check_choice, claim, prompt_style, train_in
from doran.cli.loading import model_folder, open_model
from doran.cli.options import Json, Limit, ModelDir, OutDir, Overrides, Threads, print_json, say, use_threads
from doran.cli.sft import Rename, renamed

if TYPE_CHECKING:
    from doran.data.pairs import Pair

PairsFile = Annotated[
    Path, typer.Option("--data", metavar="FILE", help="JSONL or Parquet: prompt, chosen, rejected; as TRL has it.")
]
KINDS = {"helpful": "answer", "harmless": "whole"}


def main(
    model: ModelDir,
    data: PairsFile,
    out: OutDir,
    overrides: Overrides = None,
    kind: Annotated[
        str,
        typer.Option("--kind", metavar="KIND", help="helpful: judge the answer alone; harmless: thought and answer."),
    ] = "helpful",
    held_out: Annotated[
        float, typer.Option("--held-out", metavar="SHARE", help="Share of the prompts that is only measured.")
    ] = 0.1,
    rename: Rename = None,
    style: Style = "auto",
    budget: Limit = None,
    threads: Threads = None,
) -> None:
    """Train a preference reward model (Bradley-Terry) from a language model.

    A row holds prompt, chosen and rejected, as text or lists of messages; a reply may have a thought (<think> ...
    </think> answer). OUT/model is what transformers calls a sequence classifier with one label, and reward_model.json
    in it tells its accuracy on held-out prompts. Use it in RL as --reward model:OUT=0.5. Settings are train.KEY=VALUE:
    epochs, lr, pairs_per_batch, center, seed and more. Pairs without an answer, alike or too long are left out and
    counted.

    Example: doran reward-model --model DIR --data pairs.jsonl --out runs/helpful train.lr=1e-5
    """
    from doran.models.reward import RewardModel
    from doran.recipes.single import metered
    from doran.train.preference import NOTES, Reading, RewardSettings, padding_id, read_ids, run_preference

    class Settings(StrictModel):
        train: RewardSettings = RewardSettings()

    check_choice("--style", style, STYLES)
    check_choice("--kind", kind, tuple(KINDS))
    if not 0 <= held_out < 1:
        raise UsageError(f"--held-out {held_out:g}: not a share", hint="give a number from 0 to below 1, such as 0.1")
    train = build(Settings, apply_overrides({}, overrides or []), where="settings").train
    pairs = pairs_in(data, rename)
    folder = model_folder(model)
    use_threads(threads)
    opened = open_model(folder)
    assert opened.tokenizer is not None
    reading = Reading(opened.tokenizer, prompt_style(opened.tokenizer, style)[0], KINDS[kind])  # type: ignore[arg-type]
    usable = read_ids(pairs, reading, opened.model.config.max_position_embeddings, held_out)
    facts = {"verb": "reward-model", "model": str(model), "data": str(data), "rename": rename or [], "style": style}
    claim(out, {**facts, "kind": kind, "held out": held_out})
    say(f"{len(usable.learned)} pairs to learn, {len(usable.held_out)} held out" + told(usable.dropped))
    made = RewardModel.on(opened.model, train.seed, padding_id(reading))
    with metered(out, "reward-model", train.seed, budget, {"model": folder, "data": data}) as meter:
        train_in(
            out, "reward-model", None,
            lambda progress: run_preference(
                made, reading, usable, train, out, progress, beside_weights(reading.tokenizer, folder)
            ),
            meter,
        )  # fmt: skip
    say("\n".join(summary(read_json(out / "model" / NOTES))))


def score(
    model: ModelDir,
    data: PairsFile,
    rename: Rename = None,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Measure a reward model on a file of pairs: how often the chosen reply scores higher.

    Example: doran reward-model score --model runs/helpful --data others.jsonl
    """
    from doran.train.preference import measured, open_reward, read_ids

    use_threads(threads)
    reader = open_reward(model)
    pairs = pairs_in(data, rename)
    usable = read_ids(pairs, reader.reading, reader.model.decoder.config.max_position_embeddings, 0.0)
    found = {**measured(reader.model, usable.learned), "dropped": usable.dropped, "held_out": True}
    if as_json:
        print_json({"model": str(model), "data": str(data), **found})
    else:
        print("\n".join(summary(found)))


def pairs_in(data: Path, rename: list[str] | None) -> list[Pair]:
    """The file's pairs. DataError where there are none."""
    from doran.data.pairs import read_pairs

    pairs = list(read_pairs(data, renamed(rename or [])))
    if not pairs:
        raise DataError(f"{data}: no rows", hint="give a file with one JSON object a line")
    return pairs


def told(dropped: dict[str, int]) -> str:
    """What was left out, in words; nothing where nothing was."""
    words = [f"{number} {why}" for why, number in dropped.items() if number]
    return f"; left out: {', '.join(words)}" if words else ""


def summary(notes: dict[str, Any]) -> list[str]:
    """The figures of a finished model for a person."""
    a, longer = notes["accuracy"], notes["longer_wins"]
    where = "held-out" if notes["held_out"] else "learned"
    lines = [f"{notes['pairs']} {where} pairs: accuracy {a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}]; "
             f"the longer reply wins in {longer:.3f}"]  # fmt: skip
    if not math.isclose(longer, 0.5) and a["low"] <= max(longer, 1 - longer):
        lines.append("warning: judging by length alone would do as well; balance the pairs' lengths or give more")
    return lines


SUBVERBS: dict[str, Any] = {"score": score}
