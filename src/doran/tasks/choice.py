"""Judge answers that are a choice or a fixed text: an option letter, a word, or a pattern. And the task `choice`.

Not here: numbers (math.py). The answer must be stated or stand alone; naming every option earns nothing.
"""

from __future__ import annotations

import ast
import contextlib
import re
from pathlib import Path
from typing import Any, Literal

from doran.base.config import StrictModel
from doran.base.errors import ConfigError, DataError, UsageError
from doran.base.rng import seed_for
from doran.tasks import answer as answers
from doran.tasks.language import dominant
from doran.tasks.numbers import clean
from doran.tasks.rows import read_rows
from doran.tasks.task import Item, Language, Languages, Score, Split, check_request, content_key, right, split_of, wrong

Scorer = Literal["math", "exact", "choice", "regex"]
"""math: by value; exact: the same text but for case, spaces and ending; choice: an option letter; regex: a pattern."""

_OPTION = re.compile(r"\(?([A-Ja-j])(?:[).:]|번|$)(?!\w)")
_KOREAN_ENDING = re.compile(r"(?:입니다|이다|이에요|예요|번)$")
_YES_NO = {"yes": "yes", "true": "yes", "예": "yes", "네": "yes", "참": "yes", "맞다": "yes", "맞습니다": "yes",
           "no": "no", "false": "no", "아니요": "no", "아니오": "no", "거짓": "no", "아니다": "no", "아닙니다": "no"}


def judge_exact(gold: str, completion_text: str, scorer: Scorer = "exact") -> Score:
    """Judge the stated answer, or the whole answer part if none is stated, as text."""
    part = answers.answer_part(completion_text)
    if not part:
        return wrong(None, "the thought was never closed" if part is None else "no answer")
    if len(part) > answers.MAX_ANSWER_CHARS:
        return wrong(None, "answer too long")
    found = answers.stated(part)
    spans = [span[: answers.MAX_SPAN_CHARS] for span in (found.spans if found else [part])]
    if scorer == "regex":
        return _judge_regex(gold, spans)
    read = option if scorer == "choice" else folded
    values = {read(span) for span in spans}
    if len(values) > 1:
        return wrong(spans[-1], "several different answers")
    value = values.pop()
    if value is None:
        return wrong(spans[-1], "names no option, or several")
    return right(value) if value == read(gold) else wrong(value, f"{value[:40]} is not {gold[:40]}")


def _judge_regex(pattern: str, spans: list[str]) -> Score:
    """The pattern (the user's, not the model's) must match the whole answer of at most 200 characters."""
    try:
        matched = [len(span) <= 200 and bool(re.fullmatch(pattern, span.strip())) for span in spans[-5:]]
    except re.error as error:
        raise DataError(f"answer {pattern[:40]!r} is no regular expression: {error}", hint="mend the row") from None
    return right(spans[-1]) if all(matched) else wrong(spans[-1], "does not match")


def folded(text: str) -> str:
    """Text for comparing: no case, spaces, final stop or polite ending; yes and no in both languages made one."""
    text = _KOREAN_ENDING.sub("", re.sub(r"\s", "", clean(text)).casefold())
    return _YES_NO.get(text, text)


def option(text: str) -> str | None:
    """The one option letter a text names ("B", "(b)", "B) 600", "B입니다"), None for none or several."""
    text = _KOREAN_ENDING.sub("", clean(text).removeprefix("option ").removeprefix("Option "))
    match = _OPTION.match(text)
    if not match or len({letter.upper() for letter in re.findall(r"(?<!\w)\(?([A-Ja-j])[).:]", text)}) > 1:
        return None
    if re.search(r"(?<!\w)(?:or|또는|혹은)(?!\w)", text[:40]):
        return None
    return match[1].upper()


class ChoiceConfig(StrictModel):
    """A JSONL or Parquet file of rows with question, options and the right letter (`correct` or `answer`)."""

    data: str = ""
    all_rows: bool = False


class ChoiceTask:
    """The task `choice`: multiple choice from a file, e.g. AQuA's own rows."""

    name = "choice"

    def __init__(self, config: ChoiceConfig) -> None:
        if not config.data:
            raise ConfigError("task choice needs a file of questions", hint="give data: FILE.jsonl")
        self.config = config

    def generate(self, split: Split, n: int, seed: int, language: Languages = "mixed") -> list[Item]:
        """`n` rows in an order of the seed's, each once."""
        check_request(split, n, language)
        items = [item for item in self._items() if language in ("mixed", item.language)]
        if not self.config.all_rows:
            items = [item for item in items if split_of(item.key) == split]
        if n > len(items):
            hint = f"ask for at most {len(items)}" + ("" if self.config.all_rows else ", or set all_rows")
            raise UsageError(f"{self.config.data}: {len(items)} {split} rows, not {n}", hint=hint)
        return sorted(items, key=lambda item: seed_for(self.name, split, seed, item.key))[:n]

    def _items(self) -> list[Item]:
        return [_choice_item(row, where) for where, row in read_rows(Path(self.config.data))]

    def score(self, item: Item, completion_text: str) -> Score:
        """1 if the one option named is the right one, else 0."""
        return judge_exact(item.answer or "", completion_text, "choice")


def _choice_item(row: dict[str, Any], where: str) -> Item:
    question, options, letter = published(row)
    if not (isinstance(question, str) and isinstance(options, list) and 2 <= len(options) <= 10
            and isinstance(letter, str) and option(letter)):
        raise DataError(f"{where}: no question with 2 to 10 options and a right letter",
                        hint='write {"question": ..., "options": ["A) ...", "B) ..."], "correct": "B"}')
    labelled = re.compile(r"\s*\(?[A-J][).:]")
    lines = [o if labelled.match(o) else f"{x}) {o}" for x, o in zip("ABCDEFGHIJ", map(str, options), strict=False)]
    language: Language = dominant(question) or "en"
    shown = [] if all(str(o).strip() in question for o in options) and "(A)" in question else lines  # HAE-RAE's query
    return Item("\n".join([question.strip(), *shown]), option(letter), language, {"options": lines},
                content_key("choice", question, *lines))


def published(row: dict[str, Any]) -> tuple[Any, Any, Any]:
    """(question, options, letter) of a row as its publisher wrote it; what cannot be read is passed on for the error.

    AQuA: options and correct; KMMLU: columns A to D and answer 1 to 4; MMLU: choices and answer 0 to 3; HAE-RAE: query,
    options (in a CSV a text such as "['a', 'b']") and answer "(B)".
    """
    question, letter = row.get("question", row.get("query")), row.get("correct", row.get("answer"))
    columns = [row[name] for name in "ABCDEFGHIJ" if name in row]
    options = columns or row.get("options", row.get("choices"))
    if isinstance(options, str) and len(options) < 20_000:
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            options = ast.literal_eval(options)
    if isinstance(letter, str) and letter.strip().isdecimal():
        letter = int(letter)
    if isinstance(letter, int) and not isinstance(letter, bool) and isinstance(options, list):
        place = letter - 1 if columns else letter
        letter = "ABCDEFGHIJ"[place] if 0 <= place < len(options) else None
    return question, options, letter
