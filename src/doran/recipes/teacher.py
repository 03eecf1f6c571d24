"""A teacher that is asked for text: a model folder, or a model behind an OpenAI-compatible server.

Every reply is written down as it comes (`replies.jsonl`), so that a second start asks only for what is missing and
nothing is paid twice. What a server charges goes to the run's meter. Not here: which replies are good (sampling.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from doran.base.errors import BudgetReached, ConfigError, DoranError, Interrupted
from doran.base.runlog import MetricsWriter, read_metrics
from doran.engine.engine import Engine
from doran.engine.request import SamplingParams
from doran.evals.endpoint import EndpointError, EndpointSampler
from doran.evals.run import PromptStyle, completion_text
from doran.models.decoder import Decoder
from doran.plan.meter import CONTINUE, Meter
from doran.recipes.questions import Question, opens
from doran.text.tokenizer import Tokenizer

REFUSALS = (400, 413, 422)
"""Of HTTP's codes those that a server gives to one question, which are no reason to ask no more."""
FIRST_REFUSALS = 8
"""So many of them before the first answer are a reason."""

Slot = tuple[int, int]
"""(number of the question, number of its reply)."""


@dataclass(frozen=True)
class Said:
    """A reply. `finish_reason`: stop, length, or why there is none."""

    text: str
    finish_reason: str
    tokens: int
    prompt_tokens: int


Keep = Callable[[Slot, Said], None]


class Teacher(Protocol):
    """Who answers. `ask` hands each reply to `keep`, from the calling thread, as soon as there is one."""

    def ask(self, questions: Sequence[Question], wanted: Sequence[Slot], keep: Keep) -> None: ...


def gather(
    teacher: Teacher, questions: Sequence[Question], samples: int, file: Path, on_reply: Callable[[int], None]
) -> list[list[Said]]:
    """`samples` replies to each question, those in `file` first. `on_reply(n)`: so many are there now.

    ConfigError: the file is about other questions. Whatever the teacher raises goes on up; what came before is kept.
    """
    known = read_replies(file, questions)
    slots = [(i, j) for i in range(len(questions)) for j in range(samples)]
    missing = [slot for slot in slots if slot not in known]
    if missing:
        with MetricsWriter(file) as writer:

            def keep(slot: Slot, said: Said) -> None:
                known[slot] = said
                writer.write(
                    {"question": slot[0], "sample": slot[1], "key": questions[slot[0]].item.key, **asdict(said)}
                )
                on_reply(len(known))

            teacher.ask(questions, missing, keep)
    return [[known[i, j] for j in range(samples)] for i in range(len(questions))]


def read_replies(file: Path, questions: Sequence[Question]) -> dict[Slot, Said]:
    """What earlier starts left; of a slot the last line counts."""
    known: dict[Slot, Said] = {}
    for row in read_metrics(file):
        number, sample = row.pop("question"), row.pop("sample")
        if number >= len(questions) or questions[number].item.key != row.pop("key"):
            raise ConfigError(f"{file}: question {number} is another one", hint="delete that file to start again")
        known[number, sample] = Said(**row)
    return known


class FolderTeacher:
    """A model in memory. Questions are asked in chunks, whole ones even where a part is known: then the batches, and
    with them the last bits, are those of an undisturbed run."""

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, style: PromptStyle, params: Sequence[SamplingParams], samples: int,
        max_batch: int = 128,
    ) -> None:  # fmt: skip
        self.tokenizer, self.style, self.params, self.samples = tokenizer, style, params, samples
        self.engine = Engine(model, max_batch=max_batch)
        self.chunk = max(1, 8 * max_batch // samples)

    def ask(self, questions: Sequence[Question], wanted: Sequence[Slot], keep: Keep) -> None:
        """Chunk by chunk; one that was begun is asked again."""
        opened = opens(self.tokenizer, self.style)
        for number in sorted({i // self.chunk for i, _ in wanted}):
            places = range(number * self.chunk, min((number + 1) * self.chunk, len(questions)))
            prompts = [self.style(self.tokenizer, questions[i].prompt) for i in places]
            groups = self.engine.generate(prompts, [self.params[i] for i in places], n=self.samples)
            for i, prompt, group in zip(places, prompts, groups, strict=True):
                for j, c in enumerate(group):
                    text = completion_text(self.tokenizer, c, opened)
                    keep((i, j), Said(text, c.finish_reason, len(c.token_ids), len(prompt)))


@dataclass(frozen=True)
class LazyTeacher:
    """A teacher that is opened when it is asked, and not where all replies are there."""

    open: Callable[[], Teacher]

    def ask(self, questions: Sequence[Question], wanted: Sequence[Slot], keep: Keep) -> None:
        """As the teacher does."""
        self.open().ask(questions, wanted, keep)


@dataclass
class EndpointTeacher:
    """A model behind a server. `price`: USD for a million tokens, read and written; None: not known, counted as 0.

    A question that the server refuses is counted and left out. A server that fails ends the asking: requests that are
    under way are waited for and kept, since they are paid, and no other is sent.
    """

    sampler: EndpointSampler
    meter: Meter
    price: tuple[float, float] | None = None
    refused: list[str] = field(default_factory=list)
    answers: int = 0

    def cost(self, said: Said) -> float:
        """USD."""
        read, written = self.price or (0.0, 0.0)
        return (said.prompt_tokens * read + said.tokens * written) / 1e6

    def ask(self, questions: Sequence[Question], wanted: Sequence[Slot], keep: Keep) -> None:
        """EndpointError: the server failed, or refuses everything. BudgetReached, Interrupted: as they say."""
        stop: DoranError | None = None
        failure: EndpointError | None = None
        done, slots = 0, iter(wanted)
        asked: dict[Future[Said], Slot] = {}
        with ThreadPoolExecutor(self.sampler.parallel) as pool:
            while True:
                if not (stop or failure):
                    for i, j in islice(slots, self.sampler.parallel - len(asked)):
                        asked[pool.submit(self._one, questions[i], j)] = (i, j)
                if not asked:
                    break
                try:
                    ready, _ = wait(asked, return_when=FIRST_COMPLETED)
                except KeyboardInterrupt:
                    stop = stop or Interrupted("stopped while asking the teacher", hint=CONTINUE)
                    continue
                for future in ready:
                    slot = asked.pop(future)
                    try:
                        keep(slot, self._paid(future))
                        done += 1
                    except EndpointError as error:
                        failure = failure or error
                stop = stop or self._enough()
        if failure:
            raise EndpointError(
                f"{failure.message}; {done} of {len(wanted)} replies came before that",
                hint="they are kept: when the server is well again, the same command asks for the rest",
            )
        if stop:
            raise stop

    def _enough(self) -> DoranError | None:
        """Why no more is to be asked, None to go on."""
        if words := self.meter.reached():
            return BudgetReached(words, hint=CONTINUE)
        if not self.answers and len(self.refused) >= FIRST_REFUSALS:
            return EndpointError(f"the first {len(self.refused)} questions were all refused: {self.refused[0]}")
        return None

    def _one(self, question: Question, j: int) -> Said:
        try:
            reply, prompt_tokens = self.sampler.completion(question.item, j)
        except EndpointError as error:
            if error.code not in REFUSALS:
                raise
            return Said(error.message, "refused", 0, 0)
        return Said(reply.text, "length" if reply.truncated else "stop", reply.tokens, prompt_tokens)

    def _paid(self, future: Future[Said]) -> Said:
        said = future.result()
        self.meter.bought_usd += self.cost(said)
        if said.finish_reason == "refused":
            self.refused.append(said.text)
        else:
            self.answers += 1
        return said


def receipt_of(file: Path, price: tuple[float, float] | None) -> dict[str, Any]:
    """What all replies in `file` cost, for receipt.json; `usd` is None without a price."""
    rows = read_metrics(file)
    read, written = sum(row["prompt_tokens"] for row in rows), sum(row["tokens"] for row in rows)
    usd = None if price is None else (read * price[0] + written * price[1]) / 1e6
    return {"replies": len(rows), "prompt_tokens": read, "tokens": written, "usd": usd}


def no_price(model: str) -> str:
    """What to say of a model without a price."""
    entry = "usd_per_million_tokens: " + json.dumps({model: [0.5, 2.0]})
    return f"no price for {model}: its tokens are counted, its money is not (--usd-per-mtok, or {entry} in prices.yaml)"
