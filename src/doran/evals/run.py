"""One evaluation: k completions for every item, scored and counted. Samples with doran's own engine; trains nothing.

All Q*k completions go through the engine as one continuous batch, so a slow item holds nobody up. Every item has its
own stream of random numbers, made from (seed, key, language): its result does not depend on the batch, the order or
the other items. Not resumable: samples.py keeps what was sampled, for evaluations that take long.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

from doran.base.errors import DataError
from doran.base.files import read_json, write_json
from doran.base.rng import seed_for
from doran.evals.metrics import Interval, Outcome, PairedDifference, paired_difference, summarize
from doran.tasks.format import format_reward
from doran.tasks.language import dominant, leaks
from doran.text.parse import OPEN, opens_thought, split_thought

# ---- how a prompt is wrapped -----------------------------------------------------------------------------------

PromptStyle = Callable[[Any, str], list[int]]  # (tokenizer, prompt) -> ids


def chat_style(tokenizer: Any, prompt: str) -> list[int]:
    """One user turn in the tokenizer's own chat template, up to where the assistant speaks."""
    ids: list[int] = tokenizer.encode_chat([{"role": "user", "content": prompt}], add_generation_prompt=True)
    return ids


def plain_style(tokenizer: Any, prompt: str) -> list[int]:
    """`User: ...` and `Assistant:` as ordinary text, for base models that never saw a chat token (R1-Zero's way)."""
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return start + list(tokenizer.encode(f"User: {prompt}\nAssistant:"))


# ---- results ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ItemResult:
    """One question and its k outcomes. `texts` holds the first few completions, for people to read."""

    key: str
    language: str
    prompt: str
    answer: str | None
    outcomes: list[Outcome]
    texts: list[str] = field(default_factory=list)

    @property
    def num_correct(self) -> int:
        """How many of the k completions are correct, truncated ones never."""
        return sum(outcome.ruled().correct for outcome in self.outcomes)


@dataclass(frozen=True)
class EvalResult:
    """Everything one evaluation found. `k` completions per item, sampled with `sampling` (its seed included)."""

    task: str
    k: int
    sampling: dict[str, Any]
    items: list[ItemResult]
    facts: dict[str, Any] = field(default_factory=dict)  # recipe, recipe_hash, cost, contamination

    def summary(self) -> dict[str, dict[str, Interval]]:
        """Metrics of all items ("all") and of each language, by the names in metrics.summarize."""
        languages = sorted({item.language for item in self.items})
        groups = {"all": self.items} | {lang: [i for i in self.items if i.language == lang] for lang in languages}
        seed = int(self.sampling.get("seed", 0))
        return {
            name: summarize([(i.language, i.outcomes) for i in items], seed=seed, clusters=[i.key for i in items])
            for name, items in groups.items()
            if items
        }

    def shares(self, language: str | None = None) -> dict[str, float]:
        """Question -> share of its completions that are correct; what paired comparisons take.

        A question is "key/language", or its key alone if one language is asked for: keys are shared by languages.
        """
        return {
            item.key if language else f"{item.key}/{item.language}": item.num_correct / self.k
            for item in self.items
            if language in (None, item.language)
        }

    def language_gap(self, language: str, other: str) -> PairedDifference:
        """pass@1 in `language` minus pass@1 in `other`: paired where the same questions were asked in both."""
        return paired_difference(self.shares(other), self.shares(language))

    def better_than(self, other: EvalResult) -> PairedDifference:
        """pass@1 of this result minus the other's, on the items both have."""
        return paired_difference(other.shares(), self.shares())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the totals first, then the items."""
        totals = {
            group: {name: interval.to_dict() for name, interval in metrics.items()}
            for group, metrics in self.summary().items()
        }
        return {
            "task": self.task,
            "k": self.k,
            "num_items": len(self.items),
            "sampling": self.sampling,
            "metrics": totals,
            **({"facts": self.facts} if self.facts else {}),
            "items": [asdict(item) | {"num_correct": item.num_correct} for item in self.items],
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "evaluation") -> EvalResult:
        """The inverse of to_dict; totals are computed again, not believed. DataError: not an evaluation."""
        try:
            items = [
                ItemResult(**_only(ItemResult, item) | {"outcomes": [Outcome(**o) for o in item["outcomes"]]})
                for item in raw["items"]
            ]
            return cls(raw["task"], raw["k"], raw["sampling"], items, raw.get("facts", {}))
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where} is not a doran evaluation: {error}", hint="run doran eval again") from None

    def save(self, path: str | Path) -> None:
        """Write the JSON file, all of it or nothing."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> EvalResult:
        """Read a file that save wrote."""
        return cls.from_dict(read_json(path), str(path))


def _only(cls: type, raw: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in raw.items() if name in names}


# ---- the run ---------------------------------------------------------------------------------------------------


class _Task(Protocol):
    name: str

    def score(self, item: Any, completion_text: str) -> Any: ...


def evaluate(
    model: Any,
    tokenizer: Any,
    task: _Task,
    items: Sequence[Any],
    k: int,
    params: Any,
    *,
    prompt_style: PromptStyle = chat_style,
    max_batch: int = 256,
    keep_texts: int = 1,
    engine: Any = None,
    on_finish: Callable[[int, int], None] | None = None,
) -> EvalResult:
    """Sample k completions for each item, score them, count. `params`: the engine's SamplingParams.

    Generation ends at `params.stop_token_ids`, or at the tokenizer's own stop ids where those are empty. `engine`
    stands in for one made from `model` (which is then not looked at). `on_finish(done, of)` is called after each
    completion, for a progress line.
    """
    if not items or k < 1:
        raise DataError(
            f"an evaluation of {len(items)} items with k = {k} measures nothing", hint="use 1 or more of both"
        )
    if not params.stop_token_ids:
        params = replace(params, stop_token_ids=stop_ids(tokenizer))
    shown = _counter(on_finish, len(items) * k) if on_finish else None
    sampled = sample(engine or make_engine(model, max_batch), tokenizer, items, k, params, prompt_style, shown)
    results = [
        _judge(tokenizer, task, item, prompt_opens_thought(tokenizer, prompt), done, keep_texts)
        for item, (prompt, done) in zip(items, sampled, strict=True)
    ]
    return EvalResult(task.name, k, plain_params(params), results)


def sample(
    engine: Any,
    tokenizer: Any,
    items: Sequence[Any],
    k: int,
    params: Any,
    style: PromptStyle,
    on_finish: Callable[[int, Any], None] | None = None,
) -> list[tuple[list[int], list[Any]]]:
    """(prompt, k completions) of each item, all in one call; its seed is made from its key and language."""
    prompts = [style(tokenizer, item.prompt) for item in items]
    per_item = [replace(params, seed=seed_for("eval", params.seed, item.key, item.language)) for item in items]
    shown = {"on_finish": on_finish} if on_finish else {}
    return list(zip(prompts, engine.generate(prompts, per_item, n=k, **shown), strict=True))


def make_engine(model: Any, max_batch: int) -> Any:
    """An Engine; imported here, so that reading a result file needs no torch."""
    from doran.engine import Engine

    return Engine(model, max_batch=max_batch)


def _counter(on_finish: Callable[[int, int], None], total: int) -> Callable[[int, Any], None]:
    """The engine's own callback, turned into "so many of so many"."""
    done = itertools.count(1)
    return lambda index, completion: on_finish(next(done), total)


def stop_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids that end a reply, by the tokenizer."""
    return tuple(tokenizer.stop_ids) if hasattr(tokenizer, "stop_ids") else (tokenizer.eos_id,)


def plain_params(params: Any) -> dict[str, Any]:
    """SamplingParams as plain data for JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(params).items()}


def prompt_opens_thought(tokenizer: Any, prompt_ids: list[int]) -> bool:
    """Whether the prompt itself ends with `<think>`, so that the completion starts inside the thought."""
    return opens_thought(tokenizer.decode(prompt_ids[-16:]))  # <think> may be several tokens in a foreign tokenizer


def completion_text(tokenizer: Any, completion: Any, opened: bool = False) -> str:
    """The completion as scorers read it: without the stop token, with the `<think>` that the prompt opened."""
    ids = completion.token_ids[:-1] if completion.finish_reason == "stop" else completion.token_ids
    return (OPEN if opened else "") + str(tokenizer.decode(ids))


def _judge(tokenizer: Any, task: _Task, item: Any, opened: bool, done: Sequence[Any], keep_texts: int) -> ItemResult:
    texts = [completion_text(tokenizer, completion, opened) for completion in done]
    outcomes = [
        outcome(task, item, text, len(c.token_ids), c.finish_reason == "length")
        for text, c in zip(texts, done, strict=True)
    ]
    return ItemResult(item.key, item.language, item.prompt, item.answer, outcomes, texts[:keep_texts])


def outcome(task: _Task, item: Any, text: str, length: int, truncated: bool) -> Outcome:
    """One completion judged, by the rules of metrics.py. `text` holds its thought, `length` counts its tokens."""
    score, parsed = task.score(item, text), split_thought(text)
    return Outcome(
        answer=score.parsed,
        correct=bool(score.correct),
        length=length,
        truncated=truncated,
        well_formed=format_reward(text) == 1.0,
        thought_language=dominant(parsed.reasoning or ""),
        answer_language=dominant(parsed.answer or ""),
        reward=float(score.reward),
        leaks=leaks(text),
    ).ruled()
