"""`doran localise`: a model folder made better at Korean, in stages that resume like a recipe's (pipeline.py).

before (measure, evaluate) -> extend (tokenizer, embeddings) -> pretrain (Korean, English, replay)
-> sft (the start model's own correct replies, your files) -> rl (GRPO with the language reward) -> after -> export

Not here: settings (localise_recipe.py), figures (localise_measure.py), the report (localise_report.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from doran.base.device import set_threads
from doran.base.errors import DataError
from doran.base.files import read_json, sha256_file, write_atomic, write_json
from doran.base.rng import python_rng, seed_for
from doran.data.conversations import read_conversations, to_examples
from doran.data.corpus import Corpus, Shuffled, Stream
from doran.data.mix import Mixture
from doran.data.packing import Packer
from doran.data.texts import read_texts
from doran.engine.request import SamplingParams
from doran.evals.run import EvalResult, PromptStyle, chat_style, evaluate, plain_style
from doran.models.decoder import Decoder
from doran.models.weights import load_model, save_model
from doran.recipes import sampling
from doran.recipes.context import Context
from doran.recipes.corpus import CorpusWriter, encode_document
from doran.recipes.ledger import Ledger
from doran.recipes.localise_measure import measured
from doran.recipes.localise_model import extend_model
from doran.recipes.localise_recipe import LocaliseRecipe
from doran.recipes.pipeline import point, run_stages
from doran.recipes.stages import Stage, paired, reinforce
from doran.tasks.language import dominant
from doran.text.extend import extend_bpe
from doran.text.tokenizer import Tokenizer
from doran.train.pretrain import run_pretrain
from doran.train.sft import Sample, run_sft

SOURCE = "source"


@dataclass
class Localising(Context):
    """One run. `source`: the model folder it began with; `texts`: training and held-out text of both languages."""

    recipe: LocaliseRecipe  # type: ignore[assignment]  # the parts of Recipe that shared stages read
    source: Path = field(default_factory=Path)

    @cached_property
    def old_tokenizer(self) -> Tokenizer:
        """The tokenizer as it came."""
        return Tokenizer.load(self.source)

    @cached_property
    def tokenizer(self) -> Tokenizer:  # type: ignore[override]
        """The extended one, once its stage is finished."""
        return Tokenizer.load(self.folders["extend"] / "model")

    @property
    def style(self) -> PromptStyle:
        """How this model is asked."""
        return plain_style if self.old_tokenizer.chat_template is None else chat_style

    def model(self, stage: str) -> Decoder:
        """A fresh copy of the model that a stage left."""
        return load_model(self.source) if stage == SOURCE else super().model(stage)

    @cached_property
    def writer(self) -> CorpusWriter:
        """Writes the replay documents, and running text where no files are given."""
        return CorpusWriter(self.tasks, self.recipe.pretrain.corpus, self.recipe.seed_of("texts"), pool=1500)

    @cached_property
    def texts(self) -> dict[str, tuple[list[str], list[str]]]:
        """language -> (documents to learn from, documents to measure on)."""
        return {language: self._split(language) for language in ("ko", "en")}

    def _split(self, language: str) -> tuple[list[str], list[str]]:
        settings = self.recipe.texts
        files = settings.korean if language == "ko" else settings.english
        found = list(read_texts(files, settings.field, split_on="\n\n")) if files else self._written(language)
        documents = list(dict.fromkeys(text for text in found if text.strip()))  # written twice: held out of neither
        held = [seed_for("held out", text) % 10**6 < settings.held_out * 10**6 for text in documents]
        train = [text for text, out in zip(documents, held, strict=True) if not out]
        test = [text for text, out in zip(documents, held, strict=True) if out][: settings.measured]
        if not train or not test:
            name = "Korean" if language == "ko" else "English"
            raise DataError(f"{len(documents)} {name} documents are too few", hint="give more text, or raise held_out")
        return train, test

    def _written(self, language: str) -> list[str]:
        """Documents of doran's own generators in one language: questions with worked answers."""
        rng, out = python_rng("localise texts", self.recipe.seed, language), []
        for _ in range(50 * self.recipe.texts.generated):
            question, segments = self.writer.document(rng)
            text = "".join(part for part, _ in segments).replace("<think>", "").replace("</think>", " ")
            if question and dominant(question) == language:
                out.append(f"{question} {text}")
                if len(out) == self.recipe.texts.generated:
                    break
        return out


# ---- stages ----------------------------------------------------------------------------------------------------


def before(ctx: Localising) -> None:
    """The model as it came: its Korean, its scores."""
    look(ctx, SOURCE, ctx.old_tokenizer)


def after(ctx: Localising) -> None:
    """The model that came out."""
    look(ctx, "rl", ctx.tokenizer)


def look(ctx: Localising, stage: str, tokenizer: Tokenizer) -> None:
    """measured.json and results/TASK.json of one model."""
    settings, model = ctx.recipe.evaluate, ctx.model(stage)
    write_json(ctx.out_dir / "measured.json", measured(tokenizer, model, ctx.texts["ko"][1], ctx.texts["en"][1]))
    seed = ctx.recipe.seed_of("evaluate")
    params = SamplingParams(settings.max_new_tokens, temperature=settings.temperature, seed=seed)
    with ctx.progress(len(settings.tasks)) as progress:
        for number, name in enumerate(settings.tasks, start=1):
            items = paired(ctx, name, settings.items)
            evaluate(
                model, tokenizer, ctx.tasks[name], items, settings.samples, params, prompt_style=ctx.style
            ).save(ctx.out_dir / "results" / f"{name}.json")
            progress.update(number, task=name)


def extend(ctx: Localising) -> None:
    """New tokens, and rows for them; measured again before anything is trained."""
    made = extend_bpe(ctx.old_tokenizer, ctx.texts["ko"][0], ctx.recipe.extend.num_new)
    model = extend_model(ctx.model(SOURCE), made)
    folder = ctx.out_dir / "model"
    save_model(model, folder)
    made.tokenizer.save(folder)
    generation = ctx.source / "generation_config.json"
    if generation.is_file():
        shutil.copy(generation, folder)
    figures = measured(made.tokenizer, model, ctx.texts["ko"][1], ctx.texts["en"][1])
    english = ctx.texts["en"][1]
    same = made.tokenizer.encode_batch(english) == ctx.old_tokenizer.encode_batch(english)
    write_json(ctx.out_dir / "measured.json", figures | {"new_tokens": made.num_new, "english_unchanged": same})
    ctx.notes["new_tokens"] = made.num_new


def continue_pretraining(ctx: Localising) -> None:
    """Korean and English text and replay documents, in fixed shares by tokens."""
    settings, tokenizer = ctx.recipe.pretrain, ctx.tokenizer
    train = settings.train.model_copy(update={"seed": ctx.seed})
    corpora = {name: Corpus.from_texts(tokenizer, ctx.texts[language][0])
               for name, language in (("korean", "ko"), ("english", "en"))}  # fmt: skip
    if settings.replay:
        rng = python_rng("replay", ctx.seed)
        documents = (ctx.writer.document(rng) for _ in range(settings.replay_documents))
        corpora["replay"] = Corpus.from_examples(encode_document(tokenizer, q, s, ctx.style) for q, s in documents)
    shares = {name: getattr(settings, name) for name in corpora}
    window = min(settings.window, train.tokens_per_batch)

    def batches(first: int) -> Packer:
        streams: dict[str, Stream] = {name: Shuffled(corpus, ctx.seed, name) for name, corpus in corpora.items()}
        return Packer(Mixture(streams, shares), train.tokens_per_batch, window).skip(first)

    with ctx.progress(train.steps) as progress:
        run_pretrain(ctx.model("extend"), batches, train, ctx.out_dir, progress, ctx.add_files("chat"))


def tune(ctx: Localising) -> None:
    """The start model's own correct, well-formed replies in the question's language, learned in the new tokens."""
    settings, file = ctx.recipe.sft, ctx.out_dir / "samples.jsonl"
    if not file.exists():
        rows, counts = sampling.collect(
            ctx.model(SOURCE), ctx.old_tokenizer, ctx.style, ctx.tasks, settings.sampling, ctx.seed,
            rewrite_by_rule=False,
        )  # fmt: skip
        write_json(ctx.out_dir / "samples.counts.json", counts)
        if not rows and not settings.files:
            raise DataError(f"sft: none of {counts['sampled']} replies passed the filters {counts}",
                            hint="ask easier tasks, more samples, or give sft.files")  # fmt: skip
        sampling.save_rows(file, rows)
    samples: list[Sample] = sampling.sft_samples(ctx.tokenizer, ctx.style, sampling.load_rows(file))
    for path in settings.files:
        for messages in read_conversations(path):
            samples += to_examples(ctx.tokenizer, messages)
    train = settings.train.model_copy(update={"seed": ctx.seed})
    with ctx.progress(None) as progress:
        run_sft(ctx.model("pretrain"), samples, train, ctx.out_dir, progress, ctx.add_files("chat"))


def export(ctx: Localising) -> None:
    """The model folder to hand on: weights, extended tokenizer, model card."""
    from doran.recipes.localise_report import card

    folder = ctx.out_dir / "model"
    shutil.copytree(ctx.folders["rl"] / "model", folder, dirs_exist_ok=True)
    generation = ctx.source / "generation_config.json"
    if generation.is_file():
        shutil.copy(generation, folder)
    write_atomic(folder / "README.md", card(ctx))


def _stage(name: str, needs: tuple[str, ...], run: Callable[[Any], None], *sections: str) -> Stage:
    return Stage(name, needs, run, sections)


STAGES = (
    _stage("before", (SOURCE,), before, "tasks", "texts", "evaluate", "pretrain.corpus"),
    _stage("extend", (SOURCE,), extend, "tasks", "texts", "extend", "pretrain.corpus"),
    _stage("pretrain", ("extend",), continue_pretraining, "pretrain"),
    _stage("sft", ("pretrain",), tune, "sft", "tasks"),
    _stage("rl", ("sft",), lambda c: reinforce(c, c.recipe.rl, "sft", c.style), "rl", "tasks"),
    _stage("after", ("rl",), after, "evaluate", "texts"),
    _stage("export", ("before", "after"), export),
)


def run_localise(
    recipe: LocaliseRecipe, source: Path, runs_dir: Path, *, redo: bool = False, say: Callable[[str], None] = print
) -> Path:
    """Run what is left in runs_dir/NAME and return that folder; `model` in it is the result."""
    from doran.recipes.localise_report import write_localise_report

    set_threads(recipe.threads)
    run_dir = runs_dir / recipe.name
    run_dir.mkdir(parents=True, exist_ok=True)
    resolved = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_atomic(run_dir / "recipe.yaml", resolved)
    point(runs_dir / "latest", recipe.name)
    ctx = Localising(recipe, run_dir, {SOURCE: source}, source=source)  # type: ignore[arg-type]
    ledger = Ledger(recipe, run_dir)  # type: ignore[arg-type]
    run_stages(ctx, STAGES, ledger, {SOURCE: inputs_digest(recipe, source)}, redo, say)
    point(run_dir / "model", str((ctx.folders["export"] / "model").relative_to(run_dir)))
    write_localise_report(ctx, run_dir / "report.html")
    say(f"report: {run_dir / 'report.html'}")
    return run_dir


def inputs_digest(recipe: LocaliseRecipe, source: Path) -> str:
    """What comes from outside: the model folder's files and the texts."""
    files = [*sorted(source.glob("*.json")), *sorted(source.glob("*.safetensors"))]
    files += [Path(text) for text in (*recipe.texts.korean, *recipe.texts.english, *recipe.sft.files)]
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(f"{missing[0]}: no such file", hint="check texts and sft.files in the recipe")
    return " ".join(sha256_file(file)[:16] for file in files)


def results_of(ctx: Localising, stage: str) -> dict[str, EvalResult]:
    """task -> result, of `before` or `after`."""
    return {task: EvalResult.load(ctx.folders[stage] / "results" / f"{task}.json")
            for task in ctx.recipe.evaluate.tasks}  # fmt: skip


def figures_of(ctx: Localising, stage: str) -> dict[str, Any]:
    """measured.json of a stage."""
    found: dict[str, Any] = read_json(ctx.folders[stage] / "measured.json")
    return found
