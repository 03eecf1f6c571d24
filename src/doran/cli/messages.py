"""Korean for the command line: `--lang ko`, DORAN_LANG=ko, or a Korean locale. A small catalogue; no gettext.

Messages are written in English where they arise. Here stand their Korean forms, found by the English text or by a
pattern with its changing parts; what has none is shown in English. Data on stdout, keys and file names are never
translated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from doran.base.errors import UsageError
from doran.cli.messages_ko import OPTIONS, PATTERNS, TEXTS, VERB_HELP

LANGUAGES = ("en", "ko")
OWN = ("chat",)
"""Verbs that read --lang themselves."""


def spoken(args: Sequence[str], environment: dict[str, str] | None = None) -> tuple[list[str], str]:
    """(args without `--lang X`, language). UsageError: a language that there is not."""
    rest, language = list(args), from_environment(os.environ if environment is None else environment)
    for at, word in enumerate(rest):
        name, equals, value = word.partition("=")
        if name == "--lang":
            value = value if equals else (rest[at + 1] if at + 1 < len(rest) else "")
            if value not in LANGUAGES:
                raise UsageError(f"--lang: got {value!r}", hint="use en or ko")
            rest = rest[:at] + rest[at + (1 if equals else 2) :]
            return ([*rest, f"--lang={value}"] if rest and rest[0] in OWN else rest), value
    return rest, language


def from_environment(environment: object) -> str:
    """DORAN_LANG, else the locale's language as POSIX looks for it; English unless it is Korean."""
    assert hasattr(environment, "get")
    for name in ("DORAN_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environment.get(name):
            return "ko" if str(value).lower().startswith("ko") else "en"
    return "en"


def told(text: str, language: str) -> str:
    """`text` in the language, in English where the catalogue does not know it."""
    if language != "ko":
        return text
    if text in TEXTS:
        return TEXTS[text]
    for pattern, korean in PATTERNS:
        if found := re.fullmatch(pattern, text, re.DOTALL):
            return korean.format(*found.groups())
    return text


def option_help(text: str | None, language: str) -> str | None:
    """The help of one option."""
    return OPTIONS.get(text, text) if text and language == "ko" else text


def verb_help(verb: str, text: str | None, language: str) -> str | None:
    """What a verb's --help says before its options."""
    return VERB_HELP.get(verb, text) if language == "ko" else text
