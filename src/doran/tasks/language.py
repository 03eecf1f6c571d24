"""The language-consistency reward of R1 (section 2.3.2): the share of a thought's words in the target language.

Words are told apart by script (Hangul or Latin), which is all two languages need. Not a language detector: French
counts as English. Rules:
- digits, operators, single Latin letters (x, y, A), LaTeX commands, tags and code between backticks are no words;
- a word with any Hangul is Korean ("GPU를", "x는"): a Latin stem with a Korean particle is ordinary Korean writing;
- words in other scripts (Hanja, Kana, Cyrillic) are words of neither language and lower the share.
"""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["en", "ko"]

_IGNORED = re.compile(r"```[^`]*```|`[^`\n]*`|\\[A-Za-z]+|<[^<>\s]{1,40}>")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_HANGUL = re.compile(r"[가-힣ᄀ-ᇿㄱ-ㆎ]")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")
_FOREIGN = re.compile(
    r"[\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff"  # marks, Kana, Bopomofo
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003134f]"  # Hanja, half-width Kana
)


def word_counts(text: str) -> dict[str, int]:
    """How many words are Korean ("ko"), English ("en") or neither ("other")."""
    counts = {"ko": 0, "en": 0, "other": 0}
    for word in _WORD.findall(_IGNORED.sub(" ", text)):
        if _HANGUL.search(word):
            counts["ko"] += 1
        elif not _LATIN.search(word):
            counts["other"] += 1
        elif len(word) > 1:
            counts["en"] += 1
    return counts


def consistency(text: str, language: Language, wordless: float = 0.0) -> float:
    """Share (0 to 1) of the words that are in `language`: 30 of 40 words Korean -> 0.75.

    A text without any word gets `wordless`. The default 0.0 gives nothing for a thought that speaks no language, so
    that falling silent is no way to earn the reward; 1.0 makes bare sums neutral.
    """
    counts = word_counts(text)
    total = sum(counts.values())
    return counts[language] / total if total else wordless


def dominant(text: str) -> Language | None:
    """The language of more words, None where neither leads."""
    counts = word_counts(text)
    if counts["ko"] == counts["en"]:
        return None
    return "ko" if counts["ko"] > counts["en"] else "en"


def leaks(text: str) -> int:
    """Number of Hanja, Kana and Bopomofo letters: none belongs in a Korean or English thought."""
    return len(_FOREIGN.findall(text))


def leak_share(text: str) -> float:
    """The leak meter: Hanja, Kana and Bopomofo letters over all letters (0 to 1); 0.0 for a text without letters."""
    letters = len(re.findall(r"[^\W\d_]", text))
    return min(1.0, leaks(text) / letters) if letters else 0.0
