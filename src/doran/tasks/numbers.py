"""Numbers as people write them: 1,234 · ３．０ · $18 · 3만 5천원 · 50% · 1/2 · \\frac{1}{2} · 2분의 1 · 1.5e3 · 여섯.

Not here: evaluation. `3 + 4` and `2x` are no numbers; `read_value` says None and never guesses. Every search is linear.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from doran.tasks.korean import read_number, read_quantity

MAX_CHARS = 300
_MAX_DIGITS = 60

_LATEX_NOISE = re.compile(r"\\(?:left|right|displaystyle|[,!;: ])(?![A-Za-z])|\\[()\[\]]|[$`~]")
_BOLD = re.compile(r"(?<!\S)\*\*([^*\n]{1,100})\*\*(?![\w*])")
_UNIT_IN_BRACKETS = re.compile(r"(?:(?<=[가-힣])\s?\([^()\d]{1,20}\)|(?<=[0-9])\s?\([가-힣]{1,10}\))(?=\s|$)")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s?\{([^{}]*)\}")
_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_TRILLION = r"조(?=\s?(?:[0-9]|원|달러))"  # 1조 alone may be a team
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s?(?P<currency>[₩€£¥]|US|USD)?\s?(?P<sign2>[-+]?)(?:"
    rf"(?P<over>[0-9]+)분의\s?(?P<under>[0-9]+)|"
    rf"(?P<whole>[0-9]+)\s(?P<num>[0-9]+)/(?P<den>[0-9]+)|"
    rf"(?P<top>[0-9]+)\s?/\s?(?P<bottom>[0-9]+)|"
    rf"(?P<mantissa>{_PLAIN})\s?(?:[eE]|(?:\*|×|x|\\times|\\cdot)\s?10\s?\^)\s?\{{?(?P<exponent>[-+]?[0-9]{{1,2}})\}}?|"
    rf"(?P<korean>[0-9][0-9,]*(?:\.[0-9]+)?(?:[십백천만억]|{_TRILLION})+(?:\s?[0-9][0-9,]*[십백천만억]*)*)|"
    rf"(?P<plain>{_PLAIN}))"
)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_NO_UNITS = re.compile(
    r"(?:(?![gmshtLl]\b)[a-zA-Z]|pi|sqrt|sin|cos|tan|log|ln|exp|mod|or|and|to|over|plus|minus|times|half|squared|cubed|"
    r"hundred|thousand|million|billion|또는|혹은|이나|아니면)\b", re.IGNORECASE)
_UNIT = re.compile(r"(?:[^\W\d_]|[\s°/·'’])+(?:\^?\{?[23]\}?)?")
_ALGEBRA = re.compile(r"[\^*\\/+(){}√<>_!]|\b(?:[nxyz]|pi|sqrt|sin|cos|tan|log|ln|exp|mod)\b|π")
_CANDIDATE = re.compile(rf"-?[₩€£¥]?(?:{_PLAIN})(?:/[0-9]+)?(?:%|[^\W\d_]*)")


def clean(text: str) -> str:
    """Full-width forms, typographic minus signs, LaTeX spacing, `$`, backticks and bold marks made plain."""
    text = unicodedata.normalize("NFKC", re.sub("[²³]", lambda m: {"²": "^2", "³": "^3"}[m[0]], text))
    text = text.replace("{,}", ",").replace("\\%", "%").replace("\\$", "").replace("−", "-").replace("–", "-")
    text = _UNIT_IN_BRACKETS.sub("", _BOLD.sub(r"\1", _LATEX_NOISE.sub("", text)))
    text = _LATEX_FRACTION.sub(lambda m: f"{m[1] or m[3]}/{m[2] or m[4]}", text)
    text = _LATEX_TEXT.sub(r" \1", text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".,;。 ").strip()


def read_value(text: str) -> Fraction | None:
    """The value of a text that is one number, with its unit or without; a percent sign counts as a unit (50% -> 50)."""
    if len(text) > MAX_CHARS:
        return None
    text = re.sub(r"^[A-Za-z] ?= ?", "", clean(text))
    if below := re.match(r"(?:영하|마이너스)\s?(?=[^-\s])", text):
        value = read_value(text[below.end() :])
        return None if value is None or value < 0 else -value
    match = _NUMBER.match(text)
    if not match:
        return read_quantity(text)
    value = _value(match)
    unit = text[match.end() :].strip()
    if value is None or not unit or unit in ("%", "percent", "퍼센트", "프로"):
        return value
    for name, scale in _SCALES.items():
        if re.match(name + r"\b", unit):
            value, unit = value * scale, unit[len(name) :].strip()
    return value if not unit or (_UNIT.fullmatch(unit) and not _NO_UNITS.match(unit)) else None


def _value(match: re.Match[str]) -> Fraction | None:
    part = match.groupdict()
    if len(match[0]) > _MAX_DIGITS or (part["sign"] and part["sign2"]):
        return None
    sign = -1 if "-" in (part["sign"], part["sign2"]) else 1
    if part["over"]:
        return _ratio(sign * int(part["under"]), int(part["over"]))
    if part["whole"]:
        fraction = _ratio(int(part["num"]), int(part["den"]))
        return None if fraction is None else sign * (int(part["whole"]) + fraction)
    if part["top"]:
        return _ratio(sign * int(part["top"]), int(part["bottom"]))
    if part["mantissa"]:
        return sign * Fraction(part["mantissa"].replace(",", "")) * Fraction(10) ** int(part["exponent"])
    if part["korean"]:
        return _korean(part["korean"], sign)
    return sign * Fraction(part["plain"].replace(",", ""))


def _ratio(top: int, bottom: int) -> Fraction | None:
    return Fraction(top, bottom) if bottom else None


def _korean(text: str, sign: int) -> Fraction | None:
    """3만 5천, 12만5000, and 1.5만 with a decimal before one unit."""
    if "." in text:
        match = re.fullmatch(r"([\d,]+\.\d+)([십백천만억])", text)
        scale = {"십": 10, "백": 100, "천": 1000, "만": 10**4, "억": 10**8}
        return sign * Fraction(match[1].replace(",", "")) * scale[match[2]] if match else None
    number = read_number(text)
    return None if number is None else Fraction(sign * number)


def find_value(text: str) -> Fraction | None:
    """The value a short statement comes down to: read_value, or what follows its last "=", or its only number.

    "사과 3개" -> 3, "3 + 4 = 7" -> 7, "3 or 4" -> None, "2x" -> None.
    """
    text = clean(re.split(r"(?<=\S)\.(?:\s|$)", text[: MAX_CHARS + 1], maxsplit=1)[0])
    whole = read_value(text)
    if whole is not None or len(text) > MAX_CHARS:
        return whole
    if "=" in text:
        return read_value(text.rpartition("=")[2])
    if _ALGEBRA.search(_CANDIDATE.sub(" ", text)):
        return None
    values = {read_value(candidate) for candidate in _CANDIDATE.findall(text)}
    return values.pop() if len(values) == 1 else None


def last_value(text: str) -> tuple[str, Fraction] | None:
    """The last readable number of a text with its spelling, for lenient scoring."""
    for candidate in reversed(_CANDIDATE.findall(text)[-20:]):
        value = read_value(candidate)
        if value is not None:
            return candidate, value
    return None
