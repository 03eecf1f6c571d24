"""Samples of one model that another will learn from: cold start, rejection sampling, distillation.

R1 s2.3.1, s2.3.3, s2.4. Kept are completions that are correct, well formed, not cut off, and think in the language of
the question; duplicates and the longer of several are dropped first. Kept samples are stored as chat messages
(samples.jsonl), the form user data has as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from doran.base.files import write_atomic
from doran.base.rng import seed_for
from doran.engine.engine import Engine
from doran.engine.request import SamplingParams
from doran.evals.run import PromptStyle, completion_text
from doran.parallel.world import SOLO, World
from doran.recipes.corpus import rewrite
from doran.recipes.questions import Question, opens
from doran.recipes.recipe import Sampling
from doran.tasks.format import format_reward
from doran.tasks.language import dominant
from doran.tasks.task import Languages, Task
from doran.text.parse import split_thought
from doran.text.tokenizer import Tokenizer
from doran.train.sft import Sample

Row = dict[str, Any]


def collect(
    model: Any,
    tokenizer: Tokenizer,
    style: PromptStyle,
    tasks: dict[str, Task],
    settings: Sampling,
    seed: int,
    *,
    rewrite_by_rule: bool,
    max_batch: int = 512,
    language: Languages = "mixed",
    world: World = SOLO,
) -> tuple[list[Row], dict[str, int]]:
    """Ask, judge, filter: rows {task, language, messages}, and counts (sampled, kept, and why others were dropped).

    Of several processes each asks its share of the questions, and all get all rows.
    """
    questions = questions_of(tasks, settings, seed, language)
    prompts = [style(tokenizer, q.prompt) for q in questions]
    opened = opens(tokenizer, style)
    params = sampling_params(tokenizer, settings, seed, len(questions))
    engine, n = Engine(model, max_batch=max_batch), settings.samples
    sampled = world.spread(
        len(prompts), lambda own: engine.generate([prompts[i] for i in own], [params[i] for i in own], n=n)
    )
    replies = [[(completion_text(tokenizer, c, opened), c.finish_reason) for c in group] for group in sampled]
    rows, counts = passed(questions, replies, settings.keep, rewrite_by_rule)
    return rows + general_rows(tasks, settings.general, seed, counts), counts


def questions_of(tasks: dict[str, Task], settings: Sampling, seed: int, language: Languages) -> list[Question]:
    """The training questions that `settings` asks for."""
    return [
        Question(item, tasks[name])
        for name, n in settings.questions.items()
        for item in tasks[name].generate("train", n, seed, language)
    ]


def sampling_params(tokenizer: Tokenizer, settings: Sampling, seed: int, count: int) -> list[SamplingParams]:
    """One for each of `count` questions, with a seed of its own."""
    return [
        SamplingParams(
            settings.max_new_tokens,
            temperature=settings.temperature,
            seed=seed_for(seed, i) % 2**62,
            stop_token_ids=tuple(tokenizer.stop_ids),
        )
        for i in range(count)
    ]


def passed(
    questions: Sequence[Question], replies: Sequence[Sequence[tuple[str, str]]], keep: int, rewrite_by_rule: bool
) -> tuple[list[Row], dict[str, int]]:
    """(rows of what passes the filters, counts). `replies`: text and finish reason of every completion, by question."""
    counts = dict.fromkeys(
        ("sampled", "kept", "cut off", "malformed", "wrong", "other language", "not readable", "general"), 0
    )
    rows: list[Row] = []
    for question, group in zip(questions, replies, strict=True):
        good: set[str] = set()
        for said, finish_reason in group:
            counts["sampled"] += 1
            text, why = judge(question, said, finish_reason, rewrite_by_rule)
            if text is None:
                counts[why] = counts.get(why, 0) + 1
            else:
                good.add(text)
        for text in sorted(good, key=lambda t: (len(t), t))[:keep]:
            counts["kept"] += 1
            rows.append(row(question, text))
    return rows, counts


def judge(question: Question, text: str, finish_reason: str, rewrite_by_rule: bool) -> tuple[str | None, str]:
    """The text to keep, or None and the reason."""
    if finish_reason != "stop":
        return None, "cut off" if finish_reason == "length" else finish_reason
    if format_reward(text) < 1.0:
        return None, "malformed"
    if not question.task.score(question.item, text).correct:
        return None, "wrong"
    if rewrite_by_rule:
        rewritten = rewrite(question.item, question.task.name, text)
        return (rewritten, "") if rewritten is not None else (None, "not readable")
    if dominant(split_thought(text).reasoning) != question.language:
        return None, "other language"
    return text, ""


def general_rows(tasks: dict[str, Task], n: int, seed: int, counts: dict[str, int]) -> list[Row]:
    """General questions with their given thoughts and answers: nothing is sampled for them."""
    if not n:
        return []
    items = tasks["general"].generate("train", n, seed)
    counts["general"] = len(items)
    return [
        row(Question(item, tasks["general"]), f"<think>{item.meta['thought']}</think>{item.answer}") for item in items
    ]


def row(question: Question, text: str) -> Row:
    """One training conversation."""
    messages = [{"role": "user", "content": question.prompt}, {"role": "assistant", "content": text}]
    return {"task": question.task.name, "language": question.language, "messages": messages}


def save_rows(path: Path, rows: Sequence[Row]) -> None:
    """As JSON lines."""
    write_atomic(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))


def load_rows(path: Path) -> list[Row]:
    """What save_rows wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sft_samples(tokenizer: Tokenizer, style: PromptStyle, rows: Sequence[Row]) -> list[Sample]:
    """(ids, loss_mask): the question as it will be asked, then completion and end token, which alone bear loss."""
    assert tokenizer.eos_id is not None
    samples: list[Sample] = []
    for r in rows:
        question, answer = r["messages"]
        prompt = style(tokenizer, question["content"])
        completion = [*tokenizer.encode(answer["content"], specials=True), tokenizer.eos_id]
        samples.append((prompt + completion, [False] * len(prompt) + [True] * len(completion)))
    return samples
