"""An evaluation that may be killed: every sampled reply is written down, and the same command goes on from there.

`FILE.samples.jsonl`: the recipe in the first line, then one line a question with its k replies. Verdicts are not kept,
they are made again from the texts. Doran's own engine works in chunks of `max_batch // k` questions whose lines are
written together: a continued evaluation decodes the same batches and so finds the same bits.

Not here: verdicts and counting (run.py), replies of a server (endpoint.py).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from doran.base.errors import ConfigError, DataError
from doran.base.runlog import MetricsWriter, read_metrics
from doran.evals.run import (
    EvalResult,
    ItemResult,
    PromptStyle,
    chat_style,
    completion_text,
    make_engine,
    outcome,
    plain_params,
    prompt_opens_thought,
    sample,
    stop_ids,
)
from doran.text.parse import CLOSE, OPEN

# ---- what was said ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """One completion: its text with the thought, its tokens, and whether it was cut off at the limit."""

    text: str
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class Asked:
    """One question's replies and what they cost. `seconds`: its share of the wall clock."""

    replies: list[Reply]
    prompt_tokens: int
    seconds: float


class Sampler(Protocol):
    """Who answers. `ask` yields (index into items, Asked) in any order, each as soon as it may be kept."""

    def ask(self, items: Sequence[Any], k: int) -> Iterator[tuple[int, Asked]]: ...

    independent: bool
    """Do replies not depend on what else is asked? Then of a chunk only what is missing is asked again."""

    def chunks(self, items: Sequence[Any], k: int) -> list[range]:
        """Which items are asked together."""
        ...


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """(text up to the first stop string outside a thought, was there one). A thought may say what it likes."""
    done, rest, inside = "", text, False
    while rest:
        piece, tag, after = rest.partition(CLOSE if inside else OPEN)
        if not inside:
            found = min((at for stop in stops if (at := piece.find(stop)) >= 0), default=-1)
            if found >= 0:
                return done + piece[:found], True
        done, rest, inside = done + piece + tag, after, not inside
    return text, False


class EngineSampler:
    """Doran's own engine on a model in memory. Every question has its own seed, made from its key and language.

    Its replies depend on their batch in the last bits, so that a chunk which is not whole is asked again as a whole.
    """

    independent = False

    def __init__(
        self, model: Any, tokenizer: Any, params: Any, *, style: PromptStyle = chat_style, max_batch: int = 128,
        stops: Sequence[str] = (), engine: Any = None, on_finish: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.params = params if params.stop_token_ids else replace(params, stop_token_ids=stop_ids(tokenizer))
        self.tokenizer, self.style, self.max_batch, self.stops = tokenizer, style, max_batch, tuple(stops)
        self.on_finish = on_finish
        self.engine = make_engine(model, max_batch) if engine is None else engine

    def chunks(self, items: Sequence[Any], k: int) -> list[range]:
        """`max_batch // k` questions each."""
        size = max(1, self.max_batch // k)
        return [range(at, min(at + size, len(items))) for at in range(0, len(items), size)]

    def ask(self, items: Sequence[Any], k: int) -> Iterator[tuple[int, Asked]]:
        """One chunk: all its completions in one call."""
        tick = self.on_finish
        shown = (lambda index, completion: tick()) if tick else None
        began = time.perf_counter()
        sampled = sample(self.engine, self.tokenizer, items, k, self.params, self.style, shown)
        seconds = (time.perf_counter() - began) / len(items)
        for index, (prompt, done) in enumerate(sampled):
            opened = prompt_opens_thought(self.tokenizer, prompt)
            yield index, Asked([self._reply(c, opened) for c in done], len(prompt), seconds)

    def _reply(self, completion: Any, opened: bool) -> Reply:
        text, stopped = cut_at_stop(completion_text(self.tokenizer, completion, opened), self.stops)
        return Reply(text, len(completion.token_ids), completion.finish_reason == "length" and not stopped)


# ---- the run ---------------------------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """16 hex digits that stand for plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def questions_digest(items: Sequence[Any]) -> str:
    """What was asked, in which order, and the right answers."""
    return digest([[item.key, item.language, item.prompt, item.answer] for item in items])


def evaluate_kept(
    sampler: Sampler, task: Any, items: Sequence[Any], k: int, params: Any, recipe: dict[str, Any],
    *, samples: Path | None = None, keep_texts: int = 1, on_done: Callable[[int], None] | None = None,
) -> EvalResult:  # fmt: skip
    """Ask what is not yet in the file `samples` (None: keep no file), judge all, count.

    `recipe` says everything the numbers depend on. ConfigError: the file belongs to another recipe. `on_done(n)`: so
    many questions have their replies.
    """
    if not items or k < 1:
        raise DataError(f"an evaluation of {len(items)} items with k = {k} measures nothing", hint="use 1 or more")
    print_ = digest(recipe)
    known = read_samples(samples, items, recipe) if samples else {}
    writer = MetricsWriter(samples) if samples else None
    if writer and not samples_exist(samples):
        writer.write({"recipe": recipe, "recipe_hash": print_})
    try:
        for chunk in sampler.chunks(items, k):
            missing = [i for i in chunk if i not in known]
            asked_now = missing if sampler.independent or not missing else list(chunk)
            for at, asked in sampler.ask([items[i] for i in asked_now], k) if asked_now else ():
                known[index := asked_now[at]] = asked
                if writer:
                    item = items[index]
                    writer.write({"item": index, "key": item.key, "language": item.language, **asdict(asked)})
                if on_done:
                    on_done(len(known))
    finally:
        if writer:
            writer.close()
    results = [judge(task, item, known[i], keep_texts) for i, item in enumerate(items)]
    facts = {"recipe": recipe, "recipe_hash": print_, "cost": spent([known[i] for i in range(len(items))])}
    return EvalResult(task.name, k, plain_params(getattr(sampler, "params", params)), results, facts)


def judge(task: Any, item: Any, asked: Asked, keep_texts: int) -> ItemResult:
    """The verdicts on one question's replies."""
    outcomes = [outcome(task, item, r.text, r.tokens, r.truncated) for r in asked.replies]
    texts = [r.text for r in asked.replies[:keep_texts]]
    return ItemResult(item.key, item.language, item.prompt, item.answer, outcomes, texts)


def samples_exist(path: Path | None) -> bool:
    """Is there a file with at least its first line?"""
    return path is not None and path.exists() and path.stat().st_size > 0


def read_samples(path: Path, items: Sequence[Any], recipe: dict[str, Any]) -> dict[int, Asked]:
    """What an earlier start of this evaluation left; a later line of a question counts. ConfigError: another recipe."""
    rows = read_metrics(path)
    if not rows:
        return {}
    before, now = rows[0].get("recipe"), recipe
    if not isinstance(before, dict):
        raise ConfigError(f"{path}: not a file of samples", hint="give another --out")
    if digest(before) != digest(now):
        key = next(key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key))
        raise ConfigError(
            f"{path} was begun with {key} {_short(before.get(key))}, now it is {_short(now.get(key))}",
            hint="give another --out, or delete that file to start again",
        )
    known: dict[int, Asked] = {}
    for row in rows[1:]:
        index = row["item"]
        if index >= len(items) or row["key"] != items[index].key:
            raise ConfigError(f"{path}: question {index} is another one", hint="delete that file to start again")
        known[index] = Asked([Reply(**r) for r in row["replies"]], row["prompt_tokens"], row["seconds"])
    return known


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- the cost --------------------------------------------------------------------------------------------------


def spent(asked: Sequence[Asked]) -> dict[str, Any]:
    """Tokens and seconds of all replies; money is added by `priced`."""
    tokens = sum(r.tokens for a in asked for r in a.replies)
    seconds = sum(a.seconds for a in asked)
    return {
        "prompt_tokens": sum(a.prompt_tokens for a in asked),
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1) if seconds > 0 else None,
    }


def priced(result: EvalResult, usd: float | None, krw_per_usd: float, how: str) -> EvalResult:
    """The result with its money, and every amount per question and per correct reply (None: none was correct)."""
    cost = dict(result.facts["cost"])
    correct = sum(item.num_correct for item in result.items)
    if usd is not None:
        cost |= {"usd": usd, "krw": usd * krw_per_usd, "price": how}
    amounts = [name for name in ("tokens", "seconds", "usd", "krw") if name in cost]
    cost["per_question"] = {name: cost[name] / len(result.items) for name in amounts}
    cost["per_correct"] = {name: cost[name] / correct if correct else None for name in amounts}
    return replace(result, facts={**result.facts, "cost": cost})
