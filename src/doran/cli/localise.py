"""`doran localise`: a model folder made better at Korean, by a recipe; or only measured, or only extended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.errors import DataError, UsageError
from doran.base.files import disk_errors
from doran.cli.loading import model_folder, open_model
from doran.cli.options import Json, ModelDir, Overrides, Threads, print_json, say, use_threads
from doran.cli.run import alone_in, check_name

if TYPE_CHECKING:
    from doran.recipes.localise_recipe import LocaliseRecipe

TextFiles = Annotated[
    list[Path] | None, typer.Option("--korean", metavar="FILE", help="Korean text: .txt, .jsonl or .parquet. Repeat.")
]
EnglishFiles = Annotated[
    list[Path] | None, typer.Option("--english", metavar="FILE", help="English text, to compare with. Repeat.")
]
Field = Annotated[str, typer.Option("--field", metavar="NAME", help="The field of a row that holds the text.")]


def main(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Such as recipes/localise-tiny.yaml.")],
    overrides: Overrides = None,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="DIR", help="The model folder to begin with; else the recipe's.")
    ] = None,
    runs_dir: Annotated[Path, typer.Option("--runs-dir", metavar="DIR", help="Where runs are kept.")] = Path("runs"),
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Another name for this run than the recipe's.")
    ] = None,
    redo: Annotated[
        bool, typer.Option("--redo", help="Discard finished stages that were made with other settings.")
    ] = False,
) -> None:
    """Make a model better at Korean: measure, add tokens, continue pretraining, SFT, GRPO, measure again, export.

    The run folder holds each stage's model and metrics, report.html with before against after, and `model`, a folder
    with tokenizer and model card that any Hugging Face tool reads. A run that was stopped goes on with the same
    command. KEY=VALUE changes settings, such as extend.num_new=2000 or pretrain.train.steps=100.
    `doran localise measure` only measures a folder's Korean; `doran localise extend` only adds tokens.

    Example: doran localise recipes/localise-tiny.yaml --model runs/tiny-r1/model
    """
    from doran.recipes.localise import run_localise
    from doran.recipes.localise_recipe import load_localise
    from doran.recipes.localise_report import report_lines

    settings: LocaliseRecipe = load_localise(recipe, overrides)
    if name is not None:
        settings = settings.model_copy(update={"name": name})
    check_name(settings.name)
    source = model_folder(model or Path(settings.model))
    settings = settings.model_copy(update={"model": str(source)})  # what the run's recipe.yaml tells
    run_dir = runs_dir / settings.name
    with disk_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    with alone_in(run_dir):
        run_localise(settings, source, runs_dir, redo=redo, say=say)
    say("\n".join(report_lines(run_dir / "report.json")))
    print(run_dir)


def measure(
    model: ModelDir,
    korean: TextFiles = None,
    english: EnglishFiles = None,
    field: Field = "text",
    weights: Annotated[
        bool, typer.Option("--weights/--tokenizer-only", help="Also measure bits a byte, which needs the weights.")
    ] = True,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Measure what Korean costs in a model folder: bytes and tokens a syllable, tokens a sentence, bits a byte.

    Without files, on a few sentences that come with doran. Language mixing of answers is what `doran eval` shows.

    Example: doran localise measure --model DIR --korean news.jsonl --english book.txt
    """
    from doran.recipes.localise_measure import lines, measured

    use_threads(threads)
    texts = [documents(korean, field, SENTENCES["ko"]), documents(english, field, SENTENCES["en"])]
    if weights:
        opened = open_model(model)
        assert opened.tokenizer is not None
        found = measured(opened.tokenizer, opened.model, *texts)
    else:
        from doran.text.tokenizer import Tokenizer

        alone = any((model / file).exists() for file in ("tokenizer.json", "vocab.json"))
        found = measured(Tokenizer.load(model if alone else model_folder(model)), None, *texts)
    if as_json:
        print_json({"model": str(model), **found})
    else:
        print("\n".join(lines({str(found["vocab_size"]) + " tokens": found})))


def extend(
    model: ModelDir,
    korean: Annotated[list[Path], typer.Option("--korean", metavar="FILE", help="Korean text to learn from. Repeat.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; it must be new.")],
    num_new: Annotated[int, typer.Option("--num-new", metavar="N", min=1, help="At most so many new tokens.")] = 1000,
    english: EnglishFiles = None,
    field: Field = "text",
    as_json: Json = False,
) -> None:
    """Add Korean tokens to a model folder's tokenizer, with rows in the embedding made from each token's pieces.

    English, numbers and code keep their ids. The new folder works at once, but speaks Korean well only after some
    training: `doran localise` does both.

    Example: doran localise extend --model DIR --korean news.jsonl --num-new 2000 --out more-korean
    """
    from doran.models.weights import save_model
    from doran.recipes.localise_measure import lines, measured
    from doran.recipes.localise_model import extend_model
    from doran.text.extend import extend_bpe

    if out.exists():
        raise UsageError(f"--out {out}: exists already", hint="give a new folder")
    texts, other = documents(korean, field, []), documents(english, field, SENTENCES["en"])
    opened = open_model(model)
    assert opened.tokenizer is not None
    made = extend_bpe(opened.tokenizer, texts, num_new)
    grown = extend_model(opened.model, made)
    save_model(grown, out)
    made.tokenizer.save(out)
    copy_generation_config(model_folder(model), out)
    found = {"as it came": measured(opened.tokenizer, opened.model, texts[:200], other[:200]),
             "extended": measured(made.tokenizer, grown, texts[:200], other[:200])}  # fmt: skip
    if as_json:
        print_json({"out": str(out), "new_tokens": made.num_new, **found})
    else:
        say("\n".join(lines(found)))
        say(f"{made.num_new} new tokens")
        print(out)


def copy_generation_config(source: Path, out: Path) -> None:
    """How replies end belongs to the model."""
    import shutil

    if (source / "generation_config.json").is_file():
        shutil.copy(source / "generation_config.json", out)


def documents(files: list[Path] | None, field: str, default: list[str]) -> list[str]:
    """Texts of the files. DataError: they hold none."""
    from doran.data.texts import read_texts

    if not files:
        return default
    found = list(read_texts(files, field, split_on="\n\n"))
    if not found:
        raise DataError(f"{files[0]}: no text", hint="give a file with text")
    return found


SENTENCES: dict[str, list[str]] = {
    "ko": [
        "오늘은 아침부터 비가 내려서 우산을 들고 집을 나섰습니다.",
        "주문하신 상품은 결제를 확인한 뒤 이틀 안에 보내 드립니다.",
        "사과 세 개와 배 두 개를 사면 모두 얼마인지 계산해 보세요.",
        "회의는 다음 주 화요일 오후 두 시에 본관 삼 층에서 열립니다.",
        "이 문제를 풀려면 먼저 두 수의 차를 구한 다음 반으로 나누어야 한다.",
    ],
    "en": [
        "It has been raining since the morning, so I took an umbrella when I left the house.",
        "Your order will be sent within two days after we have received the payment.",
        "Work out how much three apples and two pears cost together.",
        "The meeting takes place next Tuesday at two in the afternoon on the third floor.",
        "To solve this problem, first find the difference of the two numbers and then halve it.",
    ],
}
"""Written for doran; the same things said in both languages."""

SUBVERBS: dict[str, Any] = {"measure": measure, "extend": extend}
