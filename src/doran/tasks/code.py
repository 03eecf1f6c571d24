"""Programs as answers, checked by running them in the sandbox: the tasks `humaneval`, `mbpp` and `code`.

Not here: isolation (sandbox/). A model's program never shares a process with the tests, so it cannot read them, patch
them or report for them; what it can do wrong is only to return wrong values.
Rows: HumanEval's and MBPP's own, or {"prompt", "tests": ["assert f(2) == 4", ...], "names": ["f"]}, or
{"prompt", "inputs": ["1 2\\n", ...], "outputs": ["3\\n", ...]} for programs that read and print.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from doran.base.config import StrictModel
from doran.base.errors import ConfigError, DataError, UsageError
from doran.sandbox.launch import Backend
from doran.sandbox.pool import Limits, Sandbox
from doran.tasks.answer import MAX_ANSWER_CHARS, answer_part
from doran.tasks.files import draw_rows
from doran.tasks.language import dominant
from doran.tasks.rows import Row, read_rows
from doran.tasks.task import Item, Languages, Score, Split, content_key, right, split_of, wrong

_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)

_ASK = {
    "en": "{text}\n\nGive the whole program in one ```python block.",
    "ko": "{text}\n\n전체 프로그램을 ```python 블록 하나에 쓰세요.",
}


class CodeConfig(StrictModel):
    """The file, the sandbox's limits for one answer, and how much of the tests the question shows.

    `partial` rewards the share of tests passed; `correct` always means all of them. `show_tests` of MBPP's asserts
    stand in the question, since only they say what the function is called.
    """

    data: str = ""
    all_rows: bool = False
    partial: bool = False
    show_tests: int = 1
    workers: int = 2
    limits: Limits = Limits()
    backend: Backend = "auto"


class CodeTask:
    """The task `code`: one row in eight is held out."""

    name = "code"

    def __init__(self, config: CodeConfig) -> None:
        if not config.data:
            raise ConfigError(f"task {self.name} needs a file of problems", hint="give data: FILE.jsonl")
        if config.workers < 1 or config.show_tests < 0:
            raise ConfigError(f"task {self.name}: impossible settings", hint="workers 1 or more, show_tests 0 or more")
        self.config = config
        self.sandbox = Sandbox(config.limits, config.workers, config.backend)
        self._items = lru_cache(maxsize=1)(self._read)

    def _read(self) -> list[Item]:
        items = [self._item(row, where) for where, row in read_rows(Path(self.config.data))]
        if not items:
            raise DataError(f"{self.config.data}: no rows", hint="give a file with one JSON object a line")
        return items

    def _item(self, row: Row, where: str) -> Item:
        prompt, tests, names = row.get("prompt"), row.get("tests"), row.get("names")
        inputs, outputs = row.get("inputs"), row.get("outputs")
        meta: dict[str, Any]
        if _texts(tests) and _texts(names):
            meta = {"tests": tests, "names": names, "setup": str(row.get("setup", ""))}
        elif _texts(inputs) and _texts(outputs) and len(inputs) == len(outputs):  # type: ignore[arg-type]
            meta = {"inputs": inputs, "outputs": outputs}
        else:
            meta = {}
        if not (isinstance(prompt, str) and prompt.strip() and meta):
            hint = 'write {"prompt": ..., "tests": ["assert f(2) == 4"], "names": ["f"]}, or inputs and outputs'
            raise DataError(f"{where}: no problem with tests", hint=hint)
        return self._asked(prompt.strip(), meta, content_key(self.name, prompt.strip()))

    def _asked(self, text: str, meta: dict[str, Any], key: str) -> Item:
        language = dominant(text) or "en"
        return Item(_ASK[language].format(text=text), None, language, meta, key)

    def in_split(self, item: Item, split: Split) -> bool:
        """Is this row of the split?"""
        return self.config.all_rows or split_of(item.key) == split

    def generate(self, split: Split, n: int, seed: int, language: Languages = "mixed") -> list[Item]:
        """`n` problems in an order of the seed's. Training goes round again when all are used."""
        rows = [item for item in self._items() if self.in_split(item, split)]
        return draw_rows(self.name, self.config.data, rows, split, n, seed, language)

    def score(self, item: Item, completion_text: str) -> Score:
        """1 if the program passes every test. SandboxError where code cannot be isolated."""
        names = item.meta.get("names", [])
        code = program(completion_text, names)
        if code is None:
            return wrong(None, "no program")
        meta = item.meta
        if "inputs" in meta:
            return self._score_printed(code, meta)
        verdict = self.sandbox.check(meta.get("before", "") + code, meta["tests"], names,
                                     meta.get("prelude", ""), meta.get("setup", ""))
        if verdict.correct:
            return right(code, "passed")
        share = verdict.passed / verdict.total if verdict.total and self.config.partial else 0.0
        return Score(share, False, code, f"{verdict.passed} of {verdict.total} tests passed; {verdict.reason}")

    def _score_printed(self, code: str, meta: dict[str, Any]) -> Score:
        passed, reason = 0, ""
        for given, wanted in zip(meta["inputs"], meta["outputs"], strict=True):
            run = self.sandbox.run(code, given)
            if run.status == "ok" and run.output.split() == wanted.split():
                passed += 1
                continue
            last = run.errors.strip().splitlines()[-1:] or ["wrong output" if run.status == "ok" else run.status]
            reason = reason or last[0][:200]
            if not self.config.partial:
                break
        if passed == len(meta["inputs"]):
            return right(code, "passed")
        share = passed / len(meta["inputs"]) if self.config.partial else 0.0
        return Score(share, False, code, f"{passed} of {len(meta['inputs'])} outputs right; {reason}")

    def score_many(self, items: Sequence[Item], texts: Sequence[str]) -> list[Score]:
        """The same for many, `workers` at a time."""
        with ThreadPoolExecutor(self.config.workers) as threads:
            return list(threads.map(self.score, items, texts))

    def close(self) -> None:
        """End the sandbox's processes."""
        self.sandbox.close()


class HumanEvalTask(CodeTask):
    """The task `humaneval`, for measuring only: every row is held out."""

    name = "humaneval"

    def _item(self, row: Row, where: str) -> Item:
        prompt, test, name = (_field(row, field, where) for field in ("prompt", "test", "entry_point"))
        meta = {"tests": [f"{test}\ncheck({name})"], "names": [name], "prelude": prompt, "before": prompt + "\n",
                "id": row.get("task_id")}
        text = f"Complete this Python function.\n\n```python\n{prompt.rstrip()}\n```"
        return self._asked(text, meta, content_key(self.name, prompt))

    def in_split(self, item: Item, split: Split) -> bool:
        """All of it is the test split."""
        if split == "train" and not self.config.all_rows:
            raise UsageError("humaneval is for measuring, not for training", hint="train on mbpp")
        return True


class MbppTask(CodeTask):
    """The task `mbpp`, with the publisher's split: tasks 11 to 510 are held out."""

    name = "mbpp"

    def _item(self, row: Row, where: str) -> Item:
        text, code = (_field(row, field, where) for field in ("text" if "text" in row else "prompt", "code"))
        tests, number = row.get("test_list"), row.get("task_id")
        if not _texts(tests) or not isinstance(number, int):
            raise DataError(f"{where}: no test_list or task_id", hint="give MBPP's own rows")
        assert isinstance(tests, list)
        names, imports = _defined(code, where)
        shown = "\n".join(tests[: self.config.show_tests])
        meta = {"tests": [*tests, *row.get("challenge_test_list", [])], "names": names, "prelude": imports,
                "setup": str(row.get("test_setup_code", "")), "id": number}
        question = f"{text.strip()}\n\nThe program must pass tests like this:\n{shown}" if shown else text.strip()
        return self._asked(question, meta, content_key(self.name, number, text))

    def in_split(self, item: Item, split: Split) -> bool:
        """The publisher's split."""
        return self.config.all_rows or (11 <= item.meta["id"] <= 510) == (split == "test")


def program(completion_text: str, names: Sequence[str] = ()) -> str | None:
    """The program of an answer: its last ``` block that defines one of `names`, else the last block, else all of it.

    None where there is no answer, or where it is neither in a block nor Python. Linear in the text.
    """
    part = answer_part(completion_text)
    if not part or len(part) > MAX_ANSWER_CHARS:
        return None
    pieces = _FENCE.split(part)
    blocks = [block.partition("\n")[2] for block in pieces[1:-1:2]]  # the first line is the fence's own: a language
    blocks = [block for block in blocks if block.strip()]
    if blocks:
        defining = [b for b in blocks if any(re.search(rf"^(?:def|class)\s+{re.escape(n)}\b", b, re.M) for n in names)]
        return (defining or blocks)[-1]
    if len(pieces) > 1:  # a block that was never closed was cut short
        return None
    return part if _parsed(part) else None


def _parsed(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _defined(code: str, where: str) -> tuple[list[str], str]:
    """What a reference solution defines, and its imports, which its tests may use."""
    tree = _parsed(code)
    if tree is None:
        raise DataError(f"{where}: code is not Python", hint="delete the row or mend it")
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    imports = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return names, "\n".join(imports)


def _texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _field(row: Row, name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is missing or empty", hint="give the publisher's own rows")
    return value


