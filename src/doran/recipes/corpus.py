"""The text a recipe makes: pretraining documents, and the rewriting of a model's own samples into readable traces.

Everything follows from (seed, index): batch i of a run can be made again without making the ones before it. Held-out
puzzles and questions never occur: items come from the tasks' training split, and plain equations belong to nobody.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from doran.base.rng import python_rng, seed_for
from doran.data.packing import Pack
from doran.evals.run import PromptStyle, chat_style, plain_style
from doran.recipes.recipe import Corpus
from doran.tasks.arithmetic import solution_steps
from doran.tasks.countdown import is_test
from doran.tasks.search import (
    Segment,
    checks,
    demonstration,
    number_facts,
    openings,
    readable,
    readable_steps,
    transcript,
    worked,
)
from doran.tasks.task import Item, Task
from doran.text.parse import split_thought
from doran.text.tokenizer import Tokenizer
from doran.train.batch import ROUND_TOKENS, pack

KINDS = ("searches", "demonstrations", "facts", "checks", "openings", "arithmetic", "word_problems", "general")


class CorpusWriter:
    """Writes pretraining documents. `pool`: items made ahead for each task, drawn from at random."""

    def __init__(self, tasks: dict[str, Task], corpus: Corpus, seed: int, pool: int = 6000) -> None:
        self.corpus, self.seed = corpus, seed
        self.weights = [getattr(corpus, kind) for kind in KINDS]
        countdown: Any = tasks["countdown"]
        self.countdown = countdown
        self.max_number = countdown.config.max_number
        self.items = {
            name: tasks[name].generate(
                "train", pool if name == "countdown" else pool // 3, seed_for("corpus", seed, name) % 2**31
            )
            for name in ("countdown", "arithmetic", "word_problems", "general")
        }

    def usable(self, nums: Sequence[int], target: int) -> bool:
        """May (nums, target) be written about: in the task's range, and not held out."""
        config = self.countdown.config
        return config.min_target <= target <= config.max_target and not is_test(nums, target)

    def document(self, rng: random.Random) -> tuple[str, list[Segment]]:
        """(question, completion in segments); a document that is no dialogue has an empty question."""
        kind = rng.choices(KINDS, self.weights)[0]
        most = self.corpus.search.max_value
        if kind == "facts":
            return "", number_facts(rng, self.max_number, most)
        if kind in ("arithmetic", "word_problems"):
            item = rng.choice(self.items[kind])
            thought = worked(solution_steps(item), item.language, in_words=rng.random() < 0.5)
            return item.prompt, [(f"<think>{thought}</think>{item.answer}", True)]
        if kind == "general":
            item = rng.choice(self.items[kind])
            return item.prompt, [(f"<think>{item.meta['thought']}</think>{item.answer}", True)]
        item = rng.choice(self.items["countdown"])
        nums, target = item.meta["nums"], item.meta["target"]
        if kind == "demonstrations":
            shown = demonstration(rng, nums, item.language, self.corpus.search, lambda t: self.usable(nums, t))
            if shown is not None:
                return self.countdown.prompt(nums, shown[0], item.language), shown[1]
        if kind == "checks":
            return item.prompt, checks(rng, target, item.language, most)
        if kind == "openings":
            return item.prompt, [(openings(rng, nums, item.language, most), True)]
        return item.prompt, transcript(rng, nums, target, item.language, self.corpus.search)[0]

    def texts(self, n: int) -> Iterator[str]:
        """`n` documents as plain text: what the tokenizer learns from."""
        rng = python_rng("tokenizer corpus", self.seed)
        for _ in range(n):
            question, segments = self.document(rng)
            thought, answer, _ = split_thought("".join(text for text, _ in segments))
            yield f"User: {question}\nAssistant: " if question else ""
            yield thought
            yield answer


def encode_document(
    tokenizer: Tokenizer, question: str, segments: list[Segment], style: PromptStyle = plain_style
) -> tuple[list[int], list[bool]]:
    """(ids, loss mask) of the question as it will be asked (no loss), the completion, the end token.

    The tokenizer never joins a number with what surrounds it, so segments may be encoded apart.
    """
    assert tokenizer.eos_id is not None
    ids = style(tokenizer, question) if question else ([] if tokenizer.bos_id is None else [tokenizer.bos_id])
    mask = [False] * len(ids)
    for text, learn in segments:
        piece = tokenizer.encode(text, specials=True)
        ids += piece
        mask += [learn] * len(piece)
    return [*ids, tokenizer.eos_id], [*mask, True]


def packs(writer: CorpusWriter, tokenizer: Tokenizer, tokens: int, first: int) -> Iterator[Pack]:
    """Micro-batches number `first`, `first` + 1, ... of about `tokens` tokens."""
    index = first
    while True:
        rng = python_rng("corpus", writer.seed, index)
        documents: list[tuple[list[int], list[bool]]] = []
        room = tokens
        while room > 0:
            style = chat_style if rng.random() < writer.corpus.chat else plain_style
            documents.append(encode_document(tokenizer, *writer.document(rng), style))
            room -= len(documents[-1][0]) - 1
        documents.sort(key=lambda d: len(d[0]))
        yield pack(documents, round_to=ROUND_TOKENS)
        index += 1


def rewrite(item: Item, task_name: str, completion: str) -> str | None:
    """A correct completion of R1-Zero made readable by rule, `<think>...</think>answer`; None where it cannot be."""
    thought, answer, well_formed = split_thought(completion)
    if not well_formed:
        return None
    if task_name == "countdown":
        said = readable(thought, item.meta["target"], item.language)
    elif "steps" in item.meta:
        said = readable_steps(thought, item.language)
    else:
        said = thought
    return None if said is None else f"<think>{said}</think>{answer.strip()}"
