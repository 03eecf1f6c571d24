"""What `doran distill` puts together: asking the teacher, filtering, the method's trainer. Options are in distill.py.

What a teacher says is asked and kept in recipes/teacher.py and filtered in recipes/sampling.py; what is learned from it
is in train/sft.py and train/distill.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doran.base.errors import DataError, UsageError
from doran.base.files import read_json, write_json
from doran.cli.adapting import adapt
from doran.cli.asking import beside_weights, prompt_style, train_in
from doran.cli.loading import Opened, open_model
from doran.cli.options import say
from doran.cli.sft import to_samples

if TYPE_CHECKING:
    from doran.base.runlog import Progress
    from doran.evals.run import PromptStyle
    from doran.models.decoder import Decoder
    from doran.plan.meter import Meter
    from doran.recipes.recipe import Sampling
    from doran.recipes.teacher import EndpointTeacher, Teacher
    from doran.tasks.task import Task
    from doran.text.tokenizer import Tokenizer
    from doran.train.sft import Sample


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server. `price`: USD for a million tokens read and written, None where nobody said."""

    url: str
    model: str
    key_env: str
    price: tuple[float, float] | None


@dataclass
class Job:
    """One distillation with everything settled. `notes` are for the receipt."""

    out: Path
    method: str
    folder: Path
    style: str
    source: Path | None
    teacher_style: str
    server: Server | None
    parallel: int
    task_name: str
    task: Task
    sampling: Sampling
    train: Any
    language: Any
    top_k: int
    lora: dict[str, Any]
    meter: Meter
    notes: dict[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        """Ask, filter, learn; what was done before is not done again."""
        if self.method == "on-policy":
            return self._on_policy()
        rows = self._rows()
        self.meter.check()
        learn = {"sft": self._sft, "topk": self._topk}[self.method]
        return learn(rows)

    # ---- what the teacher says ---------------------------------------------------------------------------------

    def _rows(self) -> list[dict[str, Any]]:
        """The kept samples: asked for once and stored. DataError where none passed the filters."""
        from doran.recipes.sampling import load_rows
        from doran.recipes.teacher import receipt_of

        file, replies = self.out / "samples.jsonl", self.out / "replies.jsonl"
        if self.server:  # what a killed start paid is in its replies
            paid = receipt_of(replies, self.server.price)["usd"] or 0.0
            self.meter.bought_usd = paid - self.meter.before.bought_usd
        if not file.exists():
            self._ask(file, replies)
        if self.server:
            self.notes["teacher"] = {"model": self.server.model, **receipt_of(replies, self.server.price)}
        counts = read_json(self.out / "samples.counts.json")
        left = f" ({dropped(counts)})" if dropped(counts) else ""
        say(f"kept {counts['kept']} of {counts['sampled']} samples{left}: {file}")
        return load_rows(file)

    def _ask(self, file: Path, replies: Path) -> None:
        """Make samples.jsonl: every question asked, every reply judged."""
        from doran.recipes.sampling import general_rows, passed, questions_of, save_rows
        from doran.recipes.teacher import gather
        from doran.tasks.task import get_task

        tasks = {self.task_name: self.task, "general": get_task("general")}
        asked, samples = questions_of(tasks, self.sampling, self.train.seed, self.language), self.sampling.samples
        with self._progress("teacher", len(asked) * samples) as progress:
            said = gather(self._teacher(len(asked)), asked, samples, replies, progress.update)
        texts = [[(s.text, s.finish_reason) for s in group] for group in said]
        rows, counts = passed(asked, texts, self.sampling.keep, rewrite_by_rule=False)
        rows += general_rows(tasks, self.sampling.general, self.train.seed, counts)
        write_json(self.out / "samples.counts.json", counts)
        if not rows:
            raise DataError(
                f"none of {counts['sampled']} samples of {self.server.model if self.server else self.source} passed "
                f"the filters ({dropped(counts)})",
                hint="ask more questions, allow more sampling.max_new_tokens, or take a better teacher",
            )
        save_rows(file, rows)

    def _teacher(self, count: int) -> Teacher:
        from doran.recipes.sampling import sampling_params
        from doran.recipes.teacher import FolderTeacher, LazyTeacher, no_price

        if self.server:
            if self.server.price is None:
                say(no_price(self.server.model))
            return self._endpoint(self.server)

        def open_teacher() -> Teacher:
            opened, wrap = self._open_teacher()
            assert opened.tokenizer is not None
            params = sampling_params(opened.tokenizer, self.sampling, self.train.seed, count)
            return FolderTeacher(opened.model, opened.tokenizer, wrap, params, self.sampling.samples)

        return LazyTeacher(open_teacher)

    def _endpoint(self, server: Server) -> EndpointTeacher:
        from doran.engine.request import SamplingParams
        from doran.evals.endpoint import EndpointSampler
        from doran.recipes.teacher import EndpointTeacher

        s = self.sampling
        params = SamplingParams(s.max_new_tokens, temperature=s.temperature, seed=self.train.seed)
        sampler = EndpointSampler(server.url, server.model, params, parallel=self.parallel, key_env=server.key_env)
        return EndpointTeacher(sampler, self.meter, server.price)

    def _open_teacher(self) -> tuple[Opened, PromptStyle]:
        assert self.source is not None
        opened = open_model(self.source)
        assert opened.tokenizer is not None
        return opened, prompt_style(opened.tokenizer, self.teacher_style)[1]

    # ---- what is learned -----------------------------------------------------------------------------------------

    def _sft(self, rows: list[dict[str, Any]]) -> None:
        from doran.train.sft import run_sft

        model, tokenizer, train, add = self._student()
        learned = samples_of(tokenizer, self.style, rows)
        self._train(lambda progress: run_sft(model, learned, train, self.out, progress, add))

    def _topk(self, rows: list[dict[str, Any]]) -> None:
        from doran.train.distill import run_topk, stored_topk

        model, tokenizer, train, add = self._student()
        learned = samples_of(tokenizer, self.style, rows)
        theirs = self._as_the_teacher_reads(learned, rows)
        with self._progress("teacher's top-k", len(learned)) as progress:
            table = stored_topk(
                lambda: self._open_teacher()[0].model, theirs, self.top_k, model.config.vocab_size, self.out / "topk",
                progress.update,
            )  # fmt: skip
        self.meter.check()
        self._train(lambda progress: run_topk(model, learned, table, train, self.out, progress, add))

    def _as_the_teacher_reads(self, learned: list[Any], rows: list[dict[str, Any]]) -> list[Any]:
        """The samples behind prompts in the teacher's own form; what is learned must be the same tokens."""
        from doran.text.tokenizer import Tokenizer

        assert self.source is not None
        theirs = samples_of(Tokenizer.load(self.source), self.teacher_style, rows)
        for pair in zip(learned, theirs, strict=True):
            ours, other = ([i for i, m in zip(*sample, strict=True) if m] for sample in pair)
            if ours != other:
                raise UsageError("teacher and student end their replies differently in these prompt styles",
                                 hint="give --style and --teacher-style the same word")  # fmt: skip
        return theirs

    def _on_policy(self) -> None:
        from doran.recipes.questions import Question, dialect, drawing
        from doran.train.distill import run_on_policy

        items = self.task.generate("train", self.sampling.questions[self.task_name], self.train.seed, self.language)
        draw = drawing({"": [Question(item, self.task) for item in items]}, {"": 1.0})
        model, tokenizer, train, add = self._student()
        teacher, ask = self._open_teacher()
        wrap = prompt_style(tokenizer, self.style)[1]
        self._train(
            lambda progress: run_on_policy(
                model, teacher.model, dialect(tokenizer, wrap), draw, train, self.out, progress, add,
                lambda question: ask(teacher.tokenizer, question.prompt),
            ),
            train.steps,
        )  # fmt: skip

    def _student(self) -> tuple[Decoder, Tokenizer, Any, Callable[[Path], None]]:
        """The student, its tokenizer, the trainer's settings, and what goes beside its weights."""
        opened = open_model(self.folder)
        assert opened.tokenizer is not None
        train = adapt(opened.model, self.lora, self.train)
        return opened.model, opened.tokenizer, train, beside_weights(opened.tokenizer, self.folder)

    def _train(self, run: Callable[[Progress], Path], steps: int | None = None) -> None:
        train_in(self.out, "distill", steps, run, self.meter)

    def _progress(self, name: str, total: int) -> Progress:
        from doran.base.runlog import Progress

        return Progress(name, total, meter=self.meter)


def samples_of(tokenizer: Tokenizer, style: str, rows: list[dict[str, Any]]) -> list[Sample]:
    """The rows as ids with their loss mask, in a prompt style."""
    name, wrap = prompt_style(tokenizer, style)
    return to_samples(tokenizer, name, wrap, [row["messages"] for row in rows])


def dropped(counts: dict[str, int]) -> str:
    """Why samples were left out, in words."""
    return ", ".join(f"{n} {why}" for why, n in counts.items() if n and why not in ("sampled", "kept", "general"))
