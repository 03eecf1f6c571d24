"""Training a preference reward model: of two replies the preferred one is to score higher (Bradley-Terry).

    -log sigmoid(r(chosen) - r(rejected)) + center (r(chosen) + r(rejected))^2, mean over pairs

as in InstructGPT (2203.02155, eq 1); the second term, off by default, pins the free constant (2312.09244). R1 s2.3.4
has two such models: helpfulness is judged on the answer alone, harmlessness on the whole reply, thought included.
Not here: the model (models/reward.py), pairs in files (data/pairs.py), the reward in RL (train/reward_part.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field

from doran.base.batches import by_tokens
from doran.base.errors import ConfigError, DataError
from doran.base.files import read_json, write_json
from doran.base.rng import python_rng
from doran.base.runlog import Progress
from doran.data.conversations import end_of_turn
from doran.data.pairs import Messages, Pair
from doran.evals.metrics import wilson
from doran.evals.run import plain_style
from doran.layers.moe import RouterStats, update_router_bias
from doran.models.reward import RewardModel, load_reward, save_reward
from doran.tasks.answer import answer_part
from doran.text.tokenizer import THINK_CLOSE, THINK_OPEN, Tokenizer
from doran.train.loop import Loop, LoopSettings, Metrics, StepFn
from doran.train.optim import build_optimizer
from doran.train.schedule import ScheduleName
from doran.train.sft import digest

NOTES = "reward_model.json"
Reads = Literal["answer", "whole"]
IdPair = tuple[list[int], list[int]]
"""Ids of prompt and reply, for the chosen one and the rejected one."""


class RewardSettings(LoopSettings):
    """`doran reward-model`. R1's own: one kind of preference a model, large batches, small rate."""

    epochs: int = Field(1, ge=1, description="passes over the pairs; more than one or two learn them by heart")
    lr: float = Field(1e-5, gt=0, description="peak learning rate; small models want more")
    schedule: ScheduleName = Field("cosine", description="wsd, cosine or constant")
    pairs_per_batch: int = Field(32, ge=1, description="pairs an update")
    tokens_per_micro_batch: int = Field(8192, ge=1, description="packed tokens of a forward pass; pairs stay together")
    center: float = Field(0.0, ge=0, description="weight of (r chosen + r rejected)^2, which pins the scores' zero")
    router_bias_gamma: float = Field(1e-3, ge=0, description="step of the aux-loss-free balance bias (V3 s2.1.2)")
    balance_alpha: float = Field(1e-4, ge=0, description="weight of the sequence-wise balance loss (V3 eq 17)")


# ---- texts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """How a reward model reads: which part of a reply, in which prompt style (chat or plain), with which tokenizer."""

    tokenizer: Tokenizer
    style: str
    reads: Reads

    def ids(self, prompt: Messages, reply: str) -> list[int] | None:
        """Prompt, what of the reply is judged, and the end of the turn; None where a reply has no answer to judge.

        In a reply the think tags alone are control tokens: no policy can write the end of its turn, or a new one.
        """
        judged = answer_part(reply) if self.reads == "answer" else reply.strip()
        if not judged:
            return None
        tags = re.split(f"({re.escape(THINK_OPEN)}|{re.escape(THINK_CLOSE)})", judged)
        body = [i for n, part in enumerate(tags) if part for i in self.tokenizer.encode(part, specials=n % 2 == 1)]
        before, after = self._around(prompt)
        return before + body + after

    def _around(self, prompt: Messages) -> tuple[list[int], list[int]]:
        if self.style == "chat":
            end = end_of_turn(self.tokenizer, prompt)
            return self.tokenizer.encode_chat(prompt, add_generation_prompt=True), self.tokenizer.encode(end, True)
        if [m["role"] for m in prompt] != ["user"]:
            roles = ", ".join(str(m["role"]) for m in prompt)
            raise DataError(
                f"a prompt of {roles} cannot be written as plain text",
                hint="plain style takes one user message; other conversations need a chat template",
            )
        assert self.tokenizer.eos_id is not None
        return plain_style(self.tokenizer, prompt[0]["content"]), [self.tokenizer.eos_id]


def padding_id(reading: Reading) -> int | None:
    """What may stand for padding in batches: the tokenizer's, else its first token; never what ends a reply."""
    tokenizer = reading.tokenizer
    ends = {tokenizer.eos_id, *reading.ids([{"role": "user", "content": "?"}], "?")[-2:], *tokenizer.stop_ids}  # type: ignore[index]
    return next((i for i in (tokenizer.pad_id, tokenizer.bos_id) if i is not None and i not in ends), None)


class Read(NamedTuple):
    """Usable pairs, those to learn and those only measured, and how many were left out, by reason."""

    learned: list[IdPair]
    held_out: list[IdPair]
    dropped: dict[str, int]


def read_ids(pairs: Sequence[Pair], reading: Reading, window: int, share: float) -> Read:
    """Ids of all pairs that teach something. DataError where none does."""
    found = Read([], [], dict.fromkeys(("no answer", "both alike", "too long"), 0))
    for pair in pairs:
        chosen, rejected = (reading.ids(pair.prompt, reply) for reply in (pair.chosen, pair.rejected))
        if chosen is None or rejected is None:
            found.dropped["no answer"] += 1
        elif chosen == rejected:
            found.dropped["both alike"] += 1
        elif max(len(chosen), len(rejected)) > window:
            found.dropped["too long"] += 1
        else:
            (found.held_out if pair.held_out(share) else found.learned).append((chosen, rejected))
    if not found.learned:
        told = ", ".join(f"{number} {why}" for why, number in found.dropped.items() if number) or "all are held out"
        raise DataError(f"none of {len(pairs)} pairs can be learned ({told})", hint="give more or other pairs")
    return found


@dataclass(frozen=True)
class Reader:
    """A reward model with what it needs to read texts. `center`: the mean score of the pairs it was measured on."""

    model: RewardModel
    reading: Reading
    center: float


def open_reward(folder: Path, reads: str = "", style: str = "") -> Reader:
    """The reward model in a folder, or in its `model/`; what it says of itself holds unless given. ArtifactError: none
    there; ConfigError: an unknown word, or chat without a template."""
    folder = folder if (folder / "config.json").is_file() else folder / "model"
    model, tokenizer = load_reward(folder), Tokenizer.load(folder)
    notes = read_json(folder / NOTES) if (folder / NOTES).is_file() else {}  # somebody else's folder has none
    found: dict[str, Any] = {
        "reads": reads or notes.get("reads", "answer"), "style": style or notes.get("style", "chat"),
    }  # fmt: skip
    for key, known in (("reads", ("answer", "whole")), ("style", ("chat", "plain"))):
        if found[key] not in known:
            raise ConfigError(f"{folder}: {key} is {found[key]!r}", hint=f"write {known[0]} or {known[1]}")
    if found["style"] == "chat" and tokenizer.chat_template is None:
        raise ConfigError(f"{folder} has no chat template", hint="read it with style=plain")
    return Reader(model, Reading(tokenizer, **found), float(notes.get("center", 0.0)))


# ---- training --------------------------------------------------------------------------------------------------


def run_preference(
    model: RewardModel, reading: Reading, pairs: Read, settings: RewardSettings, out_dir: Path,
    progress: Progress | None = None, add_files: Callable[[Path], None] | None = None,
) -> Path:  # fmt: skip
    """Train `model` in place; returns out_dir/model, with NOTES beside the weights: how it reads, what it is worth."""
    plan = pair_plan(len(pairs.learned), settings)
    if progress is not None:
        progress.total_steps = len(plan)

    def finish(folder: Path) -> None:
        if add_files is not None:
            add_files(folder)
        notes = {"reads": reading.reads, "style": reading.style, **measured(model, pairs.held_out or pairs.learned)}
        write_json(folder / NOTES, notes | {"held_out": bool(pairs.held_out), "dropped": pairs.dropped})

    loop = Loop(
        model.decoder, build_optimizer(model, settings), settings, Path(out_dir), len(plan), progress,
        shown=("loss", "accuracy", "margin"), add_files=finish, save=lambda _, folder: save_reward(model, folder),
        companions={"score": model.score}, identity={"pairs": digest([(ids, ()) for p in pairs.learned for ids in p])},
    )  # fmt: skip

    def step_fn(step: int) -> Metrics:
        return preference_step(loop, model, [pairs.learned[i] for i in plan[step]], step)

    def start(first: int) -> StepFn:
        return step_fn

    return loop.run(start)


def pair_plan(count: int, settings: RewardSettings) -> list[list[int]]:
    """Pairs of every update of all epochs, shuffled anew in each."""
    plan: list[list[int]] = []
    for epoch in range(settings.epochs):
        order = list(range(count))
        python_rng("preference", settings.seed, epoch).shuffle(order)
        plan += [order[i : i + settings.pairs_per_batch] for i in range(0, count, settings.pairs_per_batch)]
    return plan


def preference_step(loop: Loop, model: RewardModel, pairs: Sequence[IdPair], step: int) -> Metrics:
    """One update on `pairs`."""
    s: Any = loop.settings
    stats = RouterStats(balance=bool(s.balance_alpha))
    groups = by_tokens([len(a) + len(b) for a, b in pairs], s.tokens_per_micro_batch)
    seen = {"loss": 0.0, "accuracy": 0.0, "margin": 0.0, "score": 0.0}
    for group in groups:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=s.bf16):
            scores_P2 = model.read([ids for i in group for ids in pairs[i]], stats).view(-1, 2)
        margin_P = scores_P2[:, 0] - scores_P2[:, 1]
        loss = -F.logsigmoid(margin_P).sum() / len(pairs)
        objective = loss + s.center * scores_P2.sum(1).square().sum() / len(pairs)
        if s.balance_alpha and stats.balance_losses:
            objective = objective + s.balance_alpha * stats.balance_loss / len(groups)
        objective.backward()
        seen["loss"] += float(loss.detach())
        seen["accuracy"] += float((margin_P > 0).sum()) / len(pairs)
        seen["margin"] += float(margin_P.detach().sum()) / len(pairs)
        seen["score"] += float(scores_P2.detach().mean(1).sum()) / len(pairs)
    grad_norm = loop.optimizer.step(loop.lr_factor(step))
    if stats.loads and s.router_bias_gamma:
        update_router_bias(model.decoder, stats, s.router_bias_gamma)
    tokens = sum(len(a) + len(b) for a, b in pairs)
    return {"tokens": tokens, "pairs": len(pairs), **seen, "grad_norm": grad_norm}


def measured(model: RewardModel, pairs: Sequence[IdPair]) -> dict[str, Any]:
    """What the model is worth on `pairs`: accuracy with its interval, that of `the longer one wins`, and the mean
    score (`center`), from which RL counts."""
    scores = model.scores([ids for pair in pairs for ids in pair])
    margins = [a - b for a, b in zip(scores[::2], scores[1::2], strict=True)]
    right = sum(m > 0 for m in margins) / len(margins)
    longer = sum((len(a) > len(b)) + 0.5 * (len(a) == len(b)) for a, b in pairs) / len(pairs)
    return {
        "pairs": len(pairs), "accuracy": wilson(right, len(margins)).to_dict(), "longer_wins": longer,
        "margin": sum(margins) / len(margins), "center": sum(scores) / len(scores),
    }  # fmt: skip
