"""Distillation with the teacher's probabilities: on its stored top-k, or on what the student itself samples.

Both need one vocabulary for teacher and student, and the teacher's samples only where the method says so. Learning from
a teacher's text alone is train/sft.py. A step follows from weights, optimizer and its number, so runs resume exactly.

N learned tokens, T tokens of a pack, K stored tokens of each, V vocab_size: the smaller of the two models', which may
be padded differently (Qwen2.5 has 151,936 and 152,064 rows for one tokenizer).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from doran.arch.count import logit_rows
from doran.base.batches import by_tokens
from doran.base.errors import DataError
from doran.base.rng import python_rng, seed_for
from doran.base.runlog import Progress
from doran.data.packing import Pack
from doran.engine.engine import Engine
from doran.engine.request import SamplingParams
from doran.formats.safetensors_folder import read_file, write_file
from doran.layers.attention import PackedAttend
from doran.layers.lora import merged
from doran.layers.moe import RouterStats, update_router_bias
from doran.models.decoder import Decoder
from doran.text.tokenizer import Tokenizer
from doran.train.batch import ROUND_TOKENS, pack
from doran.train.loop import Loop, Metrics, StepFn
from doran.train.losses import IGNORE, token_logprobs
from doran.train.losses.distill import on_policy_advantages, on_policy_loss, reverse_kl, topk_kl
from doran.train.optim import build_optimizer
from doran.train.pretrain import LmSettings, head_weight
from doran.train.rehearsal import rehearse_lm
from doran.train.samples import Dialect, Draw
from doran.train.sft import Sample, SftSettings, batch_plan, check_samples, digest

PART = 256  # samples of a stored part

RowLoss = Callable[[Tensor, Tensor, slice], Tensor]
"""(logits_nV, targets_n, which rows of the pack's learned ones) -> loss of each row."""


class TopkSettings(SftSettings):
    """`doran distill --method topk`: as SFT, but towards the teacher's distribution. An MTP module is left as it is."""

    mtp_lambda: float = Field(0.0, ge=0, le=0, description="always 0: the teacher has no say on the token after next")
    z_loss: float = Field(0.0, ge=0, le=0, description="always 0")


class OnPolicySettings(LmSettings):
    """`doran distill --method on-policy`: the student samples, the teacher scores (GKD 2306.13649)."""

    steps: int = Field(100, ge=1, description="updates, each on new samples")
    lr: float = Field(1e-5, gt=0, description="peak learning rate")
    prompts_per_step: int = Field(16, ge=1, description="questions of an update")
    samples_per_prompt: int = Field(2, ge=1, description="the student's completions of each")
    max_new_tokens: int = Field(512, ge=1, description="longest completion; a cut one teaches as well")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of both models where they are compared")
    divergence: Literal["full", "sampled"] = Field(
        "full", description="full: reverse KL over the vocabulary; sampled: the drawn token's log ratio as advantage"
    )
    tokens_per_micro_batch: int = Field(8192, ge=1, description="packed tokens of a forward pass")
    max_batch: int = Field(128, ge=1, description="completions decoded together")
    mtp_lambda: float = Field(0.0, ge=0, le=0, description="always 0: the teacher has no say on the token after next")
    z_loss: float = Field(0.0, ge=0, le=0, description="always 0")


@dataclass(frozen=True)
class TopkTable:
    """The teacher's K likeliest tokens at every learned token of S samples in order; `starts`: S + 1 borders."""

    ids_NK: Tensor
    logprobs_NK: Tensor
    starts: list[int]

    def save(self, path: Path) -> None:
        """As one safetensors file."""
        starts = torch.tensor(self.starts)
        write_file(path, {"ids": self.ids_NK.int(), "logprobs": self.logprobs_NK.float(), "starts": starts})

    @staticmethod
    def load(path: Path) -> TopkTable:
        """What `save` wrote. ArtifactError where it is torn."""
        held = read_file(path)
        return TopkTable(held["ids"].long(), held["logprobs"], held["starts"].tolist())

    @staticmethod
    def join(parts: Sequence[TopkTable]) -> TopkTable:
        """One table of samples one after the other."""
        starts = [0]
        for part in parts:
            starts += [starts[-1] + end for end in part.starts[1:]]
        return TopkTable(
            torch.cat([p.ids_NK for p in parts]), torch.cat([p.logprobs_NK for p in parts]), starts
        )  # fmt: skip


def stored_topk(
    teacher: Callable[[], Decoder], samples: Sequence[Sample], k: int, vocab_size: int, folder: Path,
    on_samples: Callable[[int], None] | None = None,
) -> TopkTable:  # fmt: skip
    """`teacher_topk` in parts of PART samples, each kept in `folder`; `teacher()` is called where one is missing.

    `on_samples(n)`: so many samples are done.
    """
    model, parts = None, []
    for first in range(0, len(samples), PART):
        some = samples[first : first + PART]
        file = folder / f"{first:06d}-{k}-{digest(some)}.safetensors"
        if not file.exists():
            model = model or teacher()
            folder.mkdir(parents=True, exist_ok=True)
            teacher_topk(model, some, k, vocab_size=vocab_size).save(file)
        parts.append(TopkTable.load(file))
        if on_samples is not None:
            on_samples(min(first + PART, len(samples)))
    return TopkTable.join(parts)


@torch.no_grad()
def teacher_topk(
    teacher: Decoder, samples: Sequence[Sample], k: int, tokens_per_batch: int = 8192, vocab_size: int | None = None
) -> TopkTable:
    """What the teacher thinks at every learned token of `samples`, fp32, of the first `vocab_size` tokens."""
    shared = min(teacher.config.vocab_size, vocab_size or teacher.config.vocab_size)
    k = min(k, shared)
    rows = _rows_at_once(teacher)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for group in by_tokens([len(ids) - 1 for ids, _ in samples], tokens_per_batch):
        h_ND = _learned(teacher, p := pack([samples[i] for i in group]))[0]
        tops = [teacher.logits(h_nD)[:, :shared].float().log_softmax(-1).topk(k) for h_nD in h_ND.split(rows)]
        ids_NK, logprobs_NK = torch.cat([t.indices for t in tops]), torch.cat([t.values for t in tops])
        sizes = [sum(map(bool, samples[i][1][1:])) for i in group]
        assert sum(sizes) == int((p.targets_T != IGNORE).sum())
        found |= dict(zip(group, zip(ids_NK.split(sizes), logprobs_NK.split(sizes), strict=True), strict=True))
    starts = [0]
    for i in range(len(samples)):
        starts.append(starts[-1] + len(found[i][0]))
    order = [found[i] for i in range(len(samples))]
    return TopkTable(torch.cat([a for a, _ in order]), torch.cat([b for _, b in order]), starts)


def run_topk(
    model: Decoder, samples: Sequence[Sample], table: TopkTable, settings: TopkSettings, out_dir: Path,
    progress: Progress | None = None, add_files: Callable[[Path], None] | None = None,
) -> Path:  # fmt: skip
    """Bring `model` towards the table on `samples`; returns out_dir/model. DataError where the two do not fit."""
    check_samples(samples, settings.max_length)
    sizes = [sum(map(bool, mask[1:])) for _, mask in samples]
    if [b - a for a, b in zip(table.starts, table.starts[1:], strict=False)] != sizes:
        raise DataError("the stored teacher logprobs are of other samples", hint="delete the folder to start again")
    plan = batch_plan([len(ids) - 1 for ids, _ in samples], settings)
    if progress is not None:
        progress.total_steps = len(plan)
    known = {"samples": digest(samples), "top_k": table.ids_NK.shape[1]}
    loop = Loop(
        model, build_optimizer(model, settings), settings, Path(out_dir), len(plan), progress, add_files=add_files,
        identity=known,
    )  # fmt: skip

    def step_fn(step: int) -> Metrics:
        which = torch.cat([torch.arange(table.starts[i], table.starts[i + 1]) for i in plan[step]])
        ids_NK, logprobs_NK = table.ids_NK[which], table.logprobs_NK[which]

        def loss(logits_nV: Tensor, targets_n: Tensor, rows: slice) -> Tensor:
            return topk_kl(logits_nV, ids_NK[rows], logprobs_NK[rows])

        return _update(loop, [(pack([samples[i] for i in plan[step]], round_to=ROUND_TOKENS), loss)], step)

    def start(first: int) -> StepFn:
        if first == 0 and settings.rehearse:
            rehearse_lm(model, samples, plan, settings)
        return step_fn

    return loop.run(start)


def run_on_policy(
    model: Decoder, teacher: Decoder, dialect: Dialect, draw: Draw, settings: OnPolicySettings, out_dir: Path,
    progress: Progress | None = None, add_files: Callable[[Path], None] | None = None,
    teacher_prompt: Callable[[Any], list[int]] | None = None,
) -> Path:  # fmt: skip
    """Let `model` answer drawn questions and bring it towards `teacher` on its own tokens; returns out_dir/model.

    `teacher_prompt(item)`: the question as the teacher knows questions, where that is not the student's form.
    """
    loop = Loop(
        model, build_optimizer(model, settings), settings, Path(out_dir), settings.steps, progress,
        shown=("loss", "reverse_kl", "length"), add_files=add_files,
    )  # fmt: skip
    teacher.requires_grad_(False)
    shared = min(model.config.vocab_size, teacher.config.vocab_size)
    engine = Engine(model, max_batch=settings.max_batch)

    def step_fn(step: int) -> Metrics:
        answers = _answers(engine, dialect, draw, settings, step, teacher_prompt)
        parts, gap = [], 0.0
        for group in by_tokens([len(a.ids) - 1 for a in answers], settings.tokens_per_micro_batch):
            chosen = [answers[i] for i in group]
            sampled_N = torch.tensor([value for a in chosen for value in a.logprobs])
            p = pack([a.under(a.prompt) for a in chosen], round_to=ROUND_TOKENS)
            theirs = p if teacher_prompt is None else pack([a.under(a.teacher_prompt) for a in chosen])
            row_loss, advantages_N = _teacher_loss(teacher, theirs, sampled_N, settings, shared)
            parts.append((p, row_loss))
            gap -= float(advantages_N.sum())
        metrics = _update(loop, parts, step)
        tokens = metrics["loss_tokens"]
        return metrics | {"reverse_kl": gap / tokens, "length": tokens / len(answers)}

    return loop.run(lambda first: step_fn)


@dataclass(frozen=True)
class Answer:
    """One completion of the student, with its prompt in the student's form and in the teacher's."""

    prompt: list[int]
    teacher_prompt: list[int]
    ids: list[int]
    logprobs: list[float]  # the sampler's

    def under(self, prompt: list[int]) -> tuple[list[int], list[bool]]:
        """(ids, loss mask) of the completion after `prompt`."""
        return prompt + self.ids, [False] * len(prompt) + [True] * len(self.ids)


def _answers(
    engine: Engine, dialect: Dialect, draw: Draw, s: OnPolicySettings, step: int,
    teacher_prompt: Callable[[Any], list[int]] | None,
) -> list[Answer]:  # fmt: skip
    """Every completion of a step."""
    items = draw(python_rng("distill prompts", s.seed, step), s.prompts_per_step)
    prompts = [list(dialect.encode(item)) for item in items]
    params = [
        SamplingParams(
            s.max_new_tokens, s.temperature, seed=seed_for("distill", s.seed, step, i) % 2**62,
            stop_token_ids=dialect.stop_token_ids,
        )
        for i in range(len(items))
    ]  # fmt: skip
    with merged(engine.model):
        groups = engine.generate(prompts, params, n=s.samples_per_prompt)
    theirs = prompts if teacher_prompt is None else [list(teacher_prompt(item)) for item in items]
    return [
        Answer(prompts[i], theirs[i], c.token_ids, c.logprobs) for i, group in enumerate(groups) for c in group
    ]  # fmt: skip


def _teacher_loss(
    teacher: Decoder, p: Pack, sampled_N: Tensor, s: OnPolicySettings, shared: int
) -> tuple[RowLoss, Tensor]:
    """(loss of each learned row of `p`, advantages_N). The teacher's states are computed here, its logits a block at a
    time; both models' logits are cut to the `shared` first tokens."""
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=s.bf16):
        h_ND, targets_N = _learned(teacher, p)
        known_N = targets_N.clamp_max(shared - 1)  # a padding row of the student's, should it ever be drawn
        theirs_N = token_logprobs(h_ND, head_weight(teacher)[:shared], known_N, temperature=s.temperature)[0]
    advantages_N = on_policy_advantages(sampled_N, theirs_N)

    def full(logits_nV: Tensor, targets_n: Tensor, rows: slice) -> Tensor:
        with torch.no_grad():
            theirs_nV = teacher.logits(h_ND[rows])[:, :shared]
        return reverse_kl(logits_nV[:, :shared] / s.temperature, theirs_nV / s.temperature)

    def sampled(logits_nV: Tensor, targets_n: Tensor, rows: slice) -> Tensor:
        own_n = (logits_nV.float() / s.temperature).log_softmax(-1).gather(-1, targets_n[:, None])[:, 0]
        return on_policy_loss(own_n, sampled_N[rows], advantages_N[rows])

    return (full if s.divergence == "full" else sampled), advantages_N


def require_same_vocabulary(teacher: Tokenizer, student: Tokenizer) -> None:
    """DataError, with what differs, unless every token has the same id in both."""
    theirs, ours = (t.backend.get_vocab(with_added_tokens=True) for t in (teacher, student))
    if theirs == ours:
        return
    token = min((t for t in theirs.keys() | ours.keys() if theirs.get(t) != ours.get(t)), key=lambda t: (len(t), t))
    where = " and ".join(f"{'nothing' if v.get(token) is None else v[token]} {who}" for v, who in (
        (theirs, "for the teacher"), (ours, "for the student")))  # fmt: skip
    sizes = f"{len(theirs):,} and {len(ours):,} tokens"
    raise DataError(
        f"teacher and student have different vocabularies ({sizes}): {token!r} is {where}",
        hint="their probabilities cannot be compared: use --method sft, which learns from text",
    )


def _learned(model: Decoder, p: Pack, stats: RouterStats | None = None) -> tuple[Tensor, Tensor]:
    """(states, targets) of the rows that bear loss."""
    h_TD = model(p.tokens_T, p.positions_T, PackedAttend(p.cu_seqlens), stats)
    rows_N = (p.targets_T != IGNORE).nonzero().squeeze(1)
    return h_TD[rows_N], p.targets_T[rows_N]


def _rows_at_once(model: Decoder) -> int:
    """Rows whose logits exist at a time: several fp32 copies of them do."""
    return logit_rows(model.config.vocab_size, 512, 1 << 24)


def _update(loop: Loop, parts: Sequence[tuple[Pack, RowLoss]], step: int) -> Metrics:
    """One update on packs with their losses; the mean is over all learned tokens."""
    s: Any = loop.settings
    total = sum(int((p.targets_T != IGNORE).sum()) for p, _ in parts)
    stats, loss, at_once = RouterStats(balance=bool(s.balance_alpha)), 0.0, _rows_at_once(loop.model)
    for p, row_loss in parts:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=s.bf16):
            h_ND, targets_N = _learned(loop.model, p, stats)
            objective = h_ND.new_zeros((), dtype=torch.float32)
            for start in range(0, len(targets_N), at_once):
                rows = slice(start, start + at_once)

                def block(h_nD: Tensor, rows: slice = rows, all_N: Tensor = targets_N, f: RowLoss = row_loss) -> Tensor:
                    return f(loop.model.logits(h_nD), all_N[rows], rows).sum() / total

                objective = objective + checkpoint(block, h_ND[rows], use_reentrant=False)
            loss += float(objective.detach())
            if s.balance_alpha and stats.balance_losses:
                objective = objective + s.balance_alpha * stats.balance_loss / len(parts)
        objective.backward()
    grad_norm = loop.optimizer.step(loop.lr_factor(step))
    if stats.loads and s.router_bias_gamma:
        update_router_bias(loop.model, stats, s.router_bias_gamma)
    tokens = sum(p.tokens_T.numel() for p, _ in parts)
    return {"tokens": tokens, "loss_tokens": total, "loss": loss, "grad_norm": grad_norm}
