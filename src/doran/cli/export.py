"""`doran export`: the model in another form, replayed against the source before anyone relies on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.errors import CheckFailed, UsageError
from doran.cli.asking import check_choice
from doran.cli.loading import Opened, model_folder, open_model
from doran.cli.options import Json, ModelDir, Threads, print_json, use_threads

if TYPE_CHECKING:
    from doran.evals.damage import Damage
    from doran.models.decoder import Decoder
    from doran.text.tokenizer import Tokenizer

FORMS = ("hf", "gguf", "peft")
PROMPTS = (
    "What is 12 + 30? Think step by step.",
    "The quick brown fox jumps over the lazy dog, and then it sleeps.",
    "사과가 세 개 있고 두 개를 더 샀어요. 모두 몇 개인가요?",
    "def add(a, b):\n    return a + b\n",
)
CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "안녕하세요! 3 + 4?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <think> there"}],
    [
        {"role": "user", "content": "one"}, {"role": "assistant", "content": "<think>two</think>three"},
        {"role": "user", "content": "four"},
    ],
)  # fmt: skip


def main(
    model: ModelDir,
    form: Annotated[str, typer.Option("--format", metavar="F", help="hf, gguf or peft.")],
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help="Folder to write; for gguf, the file.")],
    kind: Annotated[
        str,
        typer.Option(
            "--type",
            metavar="T",
            help="gguf: auto (as stored), f32, f16, bf16, q8_0, q4_0, q4_k, q6_k; hf: auto, f32, f16 or bf16.",
        ),
    ] = "auto",
    base: Annotated[
        Path | None, typer.Option("--base", metavar="DIR", help="peft: the model that training started from.")
    ] = None,
    rank: Annotated[int, typer.Option("--rank", metavar="R", min=1, help="peft: the adapter's rank.")] = 16,
    accept: Annotated[
        list[str] | None, typer.Option("--accept", metavar="WORD", help="Leave this behind: the word in the refusal.")
    ] = None,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Write the model as a Hugging Face folder, a GGUF file for llama.cpp, or a PEFT adapter, and check the result.

    The export is read back and prompts are replayed through both: the report gives the largest logit difference and
    how often the best token is the same, and renders chats with both tokenizers. Where the form cannot hold something
    (MTP weights or an unknown tokenizer rule in GGUF, more change than an adapter's rank) nothing is written and the
    message says the word for --accept. A quantised folder becomes Q8_0 or Q4_0 without another rounding.

    Example: doran export --model runs/latest --format gguf --out r1.gguf --accept mtp
    """
    check_choice("--format", form, FORMS)
    use_threads(threads)
    if (base is None) == (form == "peft"):
        raise UsageError("--base belongs to --format peft" if base else "--format peft needs --base",
                         hint="give the folder that training started from")  # fmt: skip
    source = open_model(model, need_tokenizer=False)
    folder = model if model.suffix == ".gguf" else model_folder(model)
    facts, result, tokenizer = written(folder, form, out, kind, base, rank, set(accept or ()))
    found = replay(source, result)
    facts |= {"model": str(model), "format": form, "out": str(out), "replay": found.to_dict()}
    facts["chats"] = same_chats(source.tokenizer, tokenizer)
    if as_json:
        print_json(facts)
    else:
        print("\n".join(table(facts)))
    if facts["chats"] == "different":
        raise CheckFailed(
            f"{out}: chats are rendered or cut differently than in {model}", hint="compare the tokenizers"
        )


def written(
    folder: Path, form: str, out: Path, kind: str, base: Path | None, rank: int, accept: set[str]
) -> tuple[dict[str, Any], Decoder, Tokenizer | None]:
    """Write it; (what to tell, the model read back, its tokenizer)."""
    import torch

    from doran.models.export_gguf import export_gguf
    from doran.models.export_hf import Adapted, export_hf, export_peft
    from doran.models.packed import assemble
    from doran.models.weights import open_source

    if form == "gguf":
        report = export_gguf(folder, out, kind, accept)
        opened = open_model(out, need_tokenizer=False)
        return {"types": report.kinds, "lost": report.lost, "notes": report.notes}, opened.model, opened.tokenizer
    if form == "hf":
        kinds = {"auto": None, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
        check_choice("--type", kind, tuple(kinds))
        export_hf(folder, out, kinds[kind])
        opened = open_model(out, need_tokenizer=False)
        return {}, opened.model, opened.tokenizer
    assert base is not None
    adapter = export_peft(folder, model_folder(base), out, rank, accept)
    adapted = Adapted(open_source(model_folder(base)), adapter)
    tokenizer = open_tokenizer(out)
    return {"modules": len(adapter.pairs), "lost": adapter.lost}, assemble(adapted, torch.float32, False), tokenizer


def open_tokenizer(folder: Path) -> Tokenizer | None:
    """The folder's tokenizer, None where there is none."""
    from doran.text.tokenizer import Tokenizer

    return Tokenizer.load(folder) if (folder / "tokenizer.json").exists() else None


def replay(source: Opened, result: Decoder) -> Damage:
    """Both models on the prompts; random tokens where there is no tokenizer."""
    from doran.base.rng import numpy_rng
    from doran.evals.damage import damage

    if source.tokenizer is not None:
        sequences = [source.tokenizer.encode(prompt) for prompt in PROMPTS]
    else:
        draw = numpy_rng("export", "prompts")
        sequences = [draw.integers(0, source.model.config.vocab_size, 24).tolist() for _ in PROMPTS]
    return damage(source.model, result, [s for s in sequences if len(s) > 1])


def same_chats(ours: Tokenizer | None, theirs: Tokenizer | None) -> str:
    """`same`, `different`, or `none` where one side has no tokenizer or no template."""
    if ours is None or theirs is None or not ours.chat_template or not theirs.chat_template:
        return "none"
    for chat in CHATS:
        if ours.apply_chat(chat) != theirs.apply_chat(chat) or ours.encode_chat(chat) != theirs.encode_chat(chat):
            return "different"
    return "same"


def table(facts: dict[str, Any]) -> list[str]:
    """For people."""
    r = facts["replay"]
    lines = [
        f"{facts['out']}: {facts['format']} of {facts['model']}",
        f"  replayed {r['tokens']} tokens: largest logit difference {r['logit_difference']:.4g}, "
        f"same best token {100 * r['top1']:.1f}%, KL {r['kl']:.2g}",
        f"  chat template: {facts['chats']}",
    ]
    if facts.get("types"):
        lines.append("  tensors: " + ", ".join(f"{count} {kind}" for kind, count in sorted(facts["types"].items())))
    lines += [f"  left behind ({word}): {reason}" for word, reason in facts.get("lost", {}).items()]
    return lines + [f"  note: {note}" for note in facts.get("notes", [])]
