"""The task `ifeval`: instructions whose keeping a program can see ("no commas", "at least 300 words", "end with ...").

Rows are IFEval's: prompt, instruction_id_list, kwargs (Zhou et al., arXiv 2311.07911; our own code after its
descriptions). Languages are told by script, and by common words where the script is Latin: an approximation, as the
original's detector is. Not here: whether the reply is any good.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from doran.base.config import StrictModel
from doran.base.errors import ConfigError, DataError, suggest
from doran.tasks.answer import MAX_ANSWER_CHARS, answer_part
from doran.tasks.files import draw_rows
from doran.tasks.language import dominant
from doran.tasks.rows import Row, read_rows
from doran.tasks.task import Item, Languages, Score, Split, content_key, right, split_of, wrong

Rule = Callable[..., bool]


class IfevalConfig(StrictModel):
    """A file of IFEval's rows. `partial` rewards the share of instructions kept."""

    data: str = ""
    all_rows: bool = False
    partial: bool = False


class IfevalTask:
    """The task `ifeval`; one row in eight is held out, unless `all_rows`."""

    name = "ifeval"

    def __init__(self, config: IfevalConfig) -> None:
        if not config.data:
            raise ConfigError("task ifeval needs a file", hint="give data: FILE.jsonl")
        self.config = config
        self._items = lru_cache(maxsize=1)(lambda: [_item(r, where) for where, r in read_rows(Path(config.data))])

    def generate(self, split: Split, n: int, seed: int, language: Languages = "mixed") -> list[Item]:
        """`n` prompts in an order of the seed's."""
        rows = [item for item in self._items() if self.config.all_rows or split_of(item.key) == split]
        return draw_rows(self.name, self.config.data, rows, split, n, seed, language)

    def score(self, item: Item, completion_text: str) -> Score:
        """1 if the answer part keeps every instruction."""
        text = answer_part(completion_text)
        if not text or len(text) > MAX_ANSWER_CHARS:
            return wrong(None, "no answer" if not text else "answer too long")
        broken = [name for name, settings in item.meta["rules"] if not RULES[name](text, **settings)]
        if not broken:
            return right(text[:200], "keeps every instruction")
        kept = 1 - len(broken) / len(item.meta["rules"])
        return Score(kept if self.config.partial else 0.0, False, text[:200], f"breaks {', '.join(broken)}")


def _item(row: Row, where: str) -> Item:
    prompt, names, settings = row.get("prompt"), row.get("instruction_id_list"), row.get("kwargs")
    if not (isinstance(prompt, str) and isinstance(names, list) and isinstance(settings, list) and names
            and len(names) == len(settings)):
        raise DataError(f"{where}: no prompt, instruction_id_list and kwargs", hint="give IFEval's own rows")
    rules = []
    for name, given in zip(names, settings, strict=True):
        if name not in RULES:
            raise DataError(f"{where}: no rule named {name!r}", hint=suggest(str(name), RULES))
        given = {key: value for key, value in (given or {}).items() if value is not None}
        try:
            RULES[name]("", **given)
        except (TypeError, ValueError, re.error, AttributeError) as error:
            hint = "compare with IFEval's rows"
            raise DataError(f"{where}: {name} does not take {given} ({error})", hint=hint) from None
        rules.append((name, given))
    return Item(prompt, None, dominant(prompt) or "en", {"rules": rules}, content_key("ifeval", prompt))


def _compare(count: int, relation: str, target: int) -> bool:
    if relation not in ("at least", "less than"):
        raise ValueError(f"no relation {relation!r}")
    return count >= target if relation == "at least" else count < target


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def _count_word(text: str, word: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def _sentences(text: str) -> int:
    return len([s for s in re.split(r"(?<=[.!?。])[\"'”’)]*\s+", text.strip()) if re.search(r"\w", s)])


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs divided by the line `***`; an empty one may stand only at either end."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    inner = parts[1:-1] if len(parts) > 2 else []
    return all(inner) and len([part for part in parts if part]) == num_paragraphs


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = [part for part in re.split(r"\n\n", text) if part.strip()]
    if len(parts) != num_paragraphs or not 1 <= nth_paragraph <= len(parts):
        return False
    words = re.findall(r"[^\W_]+", parts[nth_paragraph - 1])
    return bool(words) and words[0].lower() == first_word.lower()


def _highlights(text: str, num_highlights: int) -> bool:
    spans = re.findall(r"\*[^\n*]+\*", text)
    return len([span for span in spans if span.strip("*").strip()]) >= num_highlights


def _json(text: str) -> bool:
    text = re.sub(r"\A```(?:json|JSON)?\s*|\s*```\Z", "", text.strip())
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _two(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    kept = [part for part in parts if part]
    return len(kept) == 2 and kept[0] != kept[1] and all(parts[1:-1])


def _capital_words(text: str, capital_relation: str, capital_frequency: int) -> bool:
    count = sum(word.isupper() for word in re.findall(r"[^\s]+", text) if re.search(r"\w", word))
    return _compare(count, capital_relation, capital_frequency)


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = re.escape(postscript_marker.lower()).replace(r"\.", r"\.\s?")
    return bool(re.search(rf"^\s*{marker}", text.lower(), re.MULTILINE))


_SCRIPTS = {"ko": "가-힣", "ja": "\u3040-\u30ff", "zh": "\u4e00-\u9fff", "th": "\u0e00-\u0e7f", "hi": "\u0900-\u097f",
            "mr": "\u0900-\u097f", "ne": "\u0900-\u097f", "bn": "\u0980-\u09ff", "pa": "\u0a00-\u0a7f",
            "gu": "\u0a80-\u0aff", "ta": "\u0b80-\u0bff", "te": "\u0c00-\u0c7f", "kn": "\u0c80-\u0cff",
            "ml": "\u0d00-\u0d7f", "ar": "\u0600-\u06ff", "fa": "\u0600-\u06ff", "ur": "\u0600-\u06ff",
            "he": "\u0590-\u05ff", "ru": "\u0400-\u04ff", "uk": "\u0400-\u04ff", "bg": "\u0400-\u04ff",
            "el": "\u0370-\u03ff"}  # fmt: skip
_COMMON = {"en": "the of and to is in that it for with", "de": "der die und das ist nicht ein zu mit den",
           "fr": "le la les et est des une pour dans que", "es": "el los las y es una por con para que",
           "it": "il di che è una per non sono con gli", "pt": "o os de que é uma para com não em",
           "fi": "ja on ei se että hän oli ovat mutta kun", "sw": "na ya wa kwa ni katika la za yake kama",
           "vi": "và của là có không được cho một trong những"}  # fmt: skip


def _language(text: str, language: str) -> bool:
    if language in _SCRIPTS:
        letters = re.findall(r"[^\W\d_]", text)
        return len(re.findall(f"[{_SCRIPTS[language]}]", text)) > 0.5 * len(letters)
    if language not in _COMMON:
        raise ValueError(f"no way to tell {language}")
    words = [word.lower() for word in _words(text)]
    hits = {name: sum(word in common.split() for word in words) for name, common in _COMMON.items()}
    return hits[language] > 0 and hits[language] == max(hits.values())


RULES: dict[str, Rule] = {
    "punctuation:no_comma": lambda text: "," not in text,
    "length_constraints:number_words": lambda t, relation, num_words: _compare(len(_words(t)), relation, num_words),
    "length_constraints:number_sentences":
        lambda t, relation, num_sentences: _compare(_sentences(t), relation, num_sentences),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "keywords:existence": lambda t, keywords: all(_count_word(t, word) for word in keywords),
    "keywords:forbidden_words": lambda t, forbidden_words: not any(_count_word(t, word) for word in forbidden_words),
    "keywords:frequency":
        lambda t, relation, keyword, frequency: _compare(_count_word(t, keyword), relation, frequency),
    "keywords:letter_frequency": lambda t, let_relation, letter, let_frequency:
        _compare(t.lower().count(letter.lower()), let_relation, let_frequency),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": lambda text: bool(re.search(r"<<[^\n<>]*[^\s<>][^\n<>]*>>", text)),
    "detectable_format:number_bullet_lists":
        lambda text, num_bullets: len(re.findall(r"^\s*(?:\*[^*]|-)", text, re.MULTILINE)) == num_bullets,
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": lambda text, section_spliter, num_sections:
        len(re.findall(rf"\s?{re.escape(section_spliter)}\s?\d+\s?", text)) >= num_sections,
    "detectable_format:constrained_response": lambda text:
        any(f"My answer is {choice}." in text for choice in ("yes", "no", "maybe")),
    "detectable_content:number_placeholders":
        lambda text, num_placeholders: len(re.findall(r"\[[^\[\]]*\]", text)) >= num_placeholders,
    "detectable_content:postscript": _postscript,
    "change_case:english_lowercase": lambda text: text == text.lower(),
    "change_case:english_capital": lambda text: text == text.upper(),
    "change_case:capital_word_frequency": _capital_words,
    "combination:two_responses": _two,
    "combination:repeat_prompt":
        lambda text, prompt_to_repeat: text.strip().lower().startswith(prompt_to_repeat.strip().lower()),
    "startend:quotation": lambda text: len(text) > 1 and text.strip()[:1] == text.strip()[-1:] == '"',
    "startend:end_checker":
        lambda text, end_phrase: text.strip().strip('"').lower().endswith(end_phrase.strip().lower()),
    "language:response_language": _language,
}
"""IFEval's instruction name -> rule(answer, its settings)."""
