"""`doran quantize`: a smaller, faster folder of the same model, and what it cost in agreement and score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.errors import UsageError
from doran.cli.asking import opened_task, prompt_style
from doran.cli.loading import Opened, model_folder, open_model
from doran.cli.options import DataFile, Json, ModelDir, Seed, Threads, print_json, say, use_threads

if TYPE_CHECKING:
    from doran.evals.damage import Damage

SAMPLES, SAMPLE_TOKENS = 16, 128


def main(
    model: ModelDir,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for the quantised model.")],
    kind: Annotated[
        str, typer.Option("--format", metavar="F", help="int8 (8.5 bits a weight) or int4 (4.5).")
    ] = "int8",
    head: Annotated[
        str, typer.Option("--head", metavar="F", help="Format of embedding and head: int8, or int4 to save more.")
    ] = "int8",
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", metavar="FILE", help="Held-out text for the damage report: .txt, JSONL or Parquet."),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", min=2, help="Tokens of it to compare.")] = 8192,
    task: Annotated[
        str | None, typer.Option("--task", metavar="NAME", help="Also measure this task before and after.")
    ] = None,
    data: DataFile = None,
    n: Annotated[int, typer.Option("--n", metavar="N", min=1, help="Questions of the task.")] = 50,
    k: Annotated[int, typer.Option("--k", metavar="K", min=1, help="Completions of each question.")] = 4,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", metavar="N", help="Longest reply.")] = 512,
    seed: Seed = 0,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Quantise a model folder to 8 or 4 bits a weight, and report the damage.

    The report compares the two models' predictions on the text you give: KL divergence (0 is identical), how often
    both like the same token best, perplexity before and after. Without --text the source model writes the text
    itself. With --task both answer the task's held-out questions with the same seeds.

    Every verb reads the new folder like any other. Embedding and head stay at 8 bits unless you say otherwise; norms
    and the router are not touched.

    Example: doran quantize --model runs/latest --format int4 --out r1-int4 --text held-out.txt
    """
    from doran.models.quantize import quantize_folder

    use_threads(threads)
    source = open_model(model, need_tokenizer=False)
    folder = model if model.suffix == ".gguf" else model_folder(model)
    done = quantize_folder(folder, out, kind, head)
    small = open_model(out, need_tokenizer=False)
    found = report(source, small, text or [], tokens, seed)
    facts: dict[str, Any] = {
        "model": str(model), "out": str(out), "format": kind, "head_format": head, "bytes_before": done.before,
        "bytes_after": done.after, "not_quantized": done.kept, "damage": found.to_dict(),
    }  # fmt: skip
    if task is not None:
        facts["task"] = scores(source, small, task, data, n, k, max_new_tokens, seed)
    if as_json:
        print_json(facts)
    else:
        print("\n".join(table(facts)))


def report(source: Opened, small: Opened, text: list[Path], tokens: int, seed: int) -> Damage:
    """The comparison on the user's text, or on what the source writes itself."""
    from doran.data.texts import read_texts
    from doran.evals.damage import damage, windows

    if text:
        if source.tokenizer is None:
            raise UsageError(
                "--text: the model folder has no tokenizer", hint="add tokenizer.json, or leave --text out"
            )
        ids = [i for document in read_texts(text) for i in source.tokenizer.encode(document)]
        sequences = windows(ids, tokens)
        if not sequences:
            raise UsageError(f"--text: {text[0]} holds no text", hint="give a file with some hundred words")
    else:
        say("no --text given: the source model writes the text that is compared")
        sequences = own_text(source, seed)
    return damage(source.model, small.model, sequences)


def own_text(source: Opened, seed: int) -> list[list[int]]:
    """What the source writes at temperature 1 after its first token."""
    from doran.engine.engine import Engine
    from doran.engine.request import SamplingParams

    start = source.tokenizer.bos_id if source.tokenizer else source.model.config.bos_token_id
    first = start if isinstance(start, int) else 0
    params = SamplingParams(SAMPLE_TOKENS, temperature=1.0, seed=seed)
    (completions,) = Engine(source.model).generate([[first]], params, n=SAMPLES)
    return [[first, *c.token_ids] for c in completions]


def scores(
    source: Opened, small: Opened, name: str, data: Path | None, n: int, k: int, max_new_tokens: int, seed: int
) -> dict[str, Any]:
    """pass@1 of both on the same questions, and the paired difference with its 95% interval."""
    from doran.engine.request import SamplingParams
    from doran.evals.run import evaluate

    if source.tokenizer is None:
        raise UsageError("--task: the model folder has no tokenizer", hint="add tokenizer.json, or leave --task out")
    params = SamplingParams(max_new_tokens, temperature=0.6, seed=seed)
    with opened_task(name, data, {}) as asked:
        items = asked.generate("test", n, seed, "mixed")
        style = prompt_style(source.tokenizer, "auto")[1]
        results = [
            evaluate(m.model, source.tokenizer, asked, items, k, params, prompt_style=style) for m in (source, small)
        ]
    before, after = (r.summary()["all"]["pass@1"] for r in results)
    change = results[1].better_than(results[0]).interval.to_dict()
    return {"name": name, "n": n, "k": k, "before": before.value, "after": after.value, "change": change}


def table(facts: dict[str, Any]) -> list[str]:
    """For people."""
    d, before, after = facts["damage"], facts["bytes_before"], facts["bytes_after"]
    lines = [
        f"{facts['out']}: {facts['format']}, head {facts['head_format']}, "
        f"{after / 1e6:,.1f} MB instead of {before / 1e6:,.1f} MB ({before / after:.2f} times smaller)",
        f"compared on {d['tokens']:,} tokens:",
        f"  KL divergence      {d['kl']:.5f} nats a token (99% below {d['kl_p99']:.4f})",
        f"  same best token    {100 * d['top1']:.2f}%",
        f"  perplexity         {d['perplexity_source']:.3f} -> {d['perplexity']:.3f}",
    ]
    if facts["not_quantized"]:
        lines.append(
            f"  kept as they were  {len(facts['not_quantized'])} matrices whose rows are no whole groups of 32"
        )
    if "task" in facts:
        t = facts["task"]
        lines.append(f"  {t['name']:<18} {t['before']:.3f} -> {t['after']:.3f} (pass@1, {t['n']} questions)")
    return lines
