"""What the benchmarks share: shapes from a recipe, interleaved rounds, a table, the machine. Measures nothing itself.

Contenders take turns inside every round, so that a machine that warms up, throttles or is shared hurts all of them
alike; what is reported is the median over rounds, and a ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from doran.arch.config import ModelConfig
from doran.base.config import load_yaml
from doran.base.device import machine, set_threads
from doran.native.build import library

RECIPE = Path(__file__).parent.parent / "recipes" / "tiny-r1.yaml"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SECTIONS = {"deepseek_v3": "base", "qwen2": "student_base"}
"""The recipe's section that holds the shape of each family compared here."""


def parser(doc: str) -> argparse.ArgumentParser:
    """Options that all benchmarks have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--recipe", type=Path, default=RECIPE, help="recipe whose model shapes are used")
    made.add_argument("--rounds", type=int, default=7, help="interleaved rounds; medians are over these")
    made.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's own choice)")
    made.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write every number to FILE")
    return made


def start(args: argparse.Namespace) -> None:
    """Threads as asked for, and a word about the machine on stderr."""
    if args.threads:
        set_threads(args.threads)
    native = "native kernels" if library() is not None else "no native kernels"
    facts = machine()
    print(f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, {native}", file=sys.stderr)


def shape(recipe: Path, family: str, mtp: bool = False) -> ModelConfig:
    """The recipe's model of a family, by default without its MTP module, which transformers does not train."""
    values = load_yaml(recipe)
    keys = {**values[SECTIONS[family]]["model"], "vocab_size": values["tokenizer"]["vocab_size"]}
    config = ModelConfig.from_hf(keys)
    return config if mtp else replace(config, num_nextn_predict_layers=0)


def seconds(work: Callable[[], Any]) -> float:
    """Wall clock of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rounds(contenders: Mapping[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """Each contender's figure in each round, in turns; one round before them warms up and is thrown away."""
    for run in contenders.values():
        run()
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(count):
        for name, run in contenders.items():
            figures[name].append(run())
        print(f"\rround {number + 1}/{count}", end="\n" if number + 1 == count else "", file=sys.stderr, flush=True)
    return figures


def ratio(over: list[float], under: list[float]) -> float:
    """Median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def spread(values: list[float]) -> str:
    """`median (least to most)` of the rounds."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, aligned for reading as it is."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    line = lambda cells: "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"  # noqa: E731
    return "\n".join([line(head), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, rows)])


def finish(args: argparse.Namespace, head: list[str], rows: list[list[str]], figures: dict[str, Any]) -> None:
    """Print the table on stdout; with --json also write the settings, the machine and every figure."""
    print(table(head, rows))
    if args.json:
        settings = {key: value.name if isinstance(value, Path) else value for key, value in vars(args).items()}
        content = {"settings": settings, "machine": machine(), "figures": figures}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
