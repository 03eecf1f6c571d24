"""Find the answer in a completion: the part after the thought, then the place where it is stated.

Not here: what an answer means (expression.py, math.py). Everything is linear in the text and bounded:
a reader of model output is attack surface.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_ANSWER_CHARS = 20_000
"""A longer answer part is refused unread. (Thoughts may be of any length.)"""
MAX_SPAN_CHARS = 1_000
"""A stated answer longer than this is not taken for one."""

_SPECIAL_AT_END = re.compile(r"(?:<\|[^|<>]{1,60}\|>|<｜[^｜<>]{1,60}｜>|</s>)\Z")
_MARKER = re.compile(
    r"(?:\banswer|정답|(?<![가-힣])답|(?:^|\n)A)"
    r"\s{0,3}(?:\*\*)?\s{0,3}[:：]\s{0,3}(?:\*\*)?([^\n]{1,1000})",
    re.IGNORECASE,
)
_SENTENCE_EN = re.compile(r"\banswer\s{1,3}is\s{1,3}(?!not\b)(?:equal to\s)?:?([^\n]{1,1000})", re.IGNORECASE)
_SENTENCE_KO = re.compile(
    r"(?:정답|(?<![가-힣])답)[은이]\s{0,3}:?([^\n]{1,100}?)\s?(?:입니다|이다|이에요|예요|이야|임(?=[\s.]|$))"
)
_HASHES = re.compile(r"####\s{0,3}([^\n]{1,1000})")


@dataclass(frozen=True)
class Stated:
    """Answers stated in one way (`kind`: tag, boxed, hashes, marker, sentence), in order, at least one."""

    kind: str
    spans: list[str]

    @property
    def last(self) -> str:
        return self.spans[-1]

    @property
    def conflicting(self) -> bool:
        """Whether two of the answers differ by more than white space: then none of them counts."""
        return len({re.sub(r"\s+", "", span) for span in self.spans}) > 1


def answer_part(text: str) -> str | None:
    """The text after the last `</think>`, all of it if there was no thought, None if the thought was never closed."""
    answer = text.rpartition("</think>")[2]
    if "<think>" in answer:  # a thought opened after that and never closed (or no thought closed at all)
        return None
    answer = answer[-MAX_ANSWER_CHARS - 1 :].strip()
    while special := _SPECIAL_AT_END.search(answer, max(0, len(answer) - 64)):
        answer = answer[: special.start()].rstrip()
    return answer


def stated(answer: str) -> Stated | None:
    """Where the answer part states its answer.

    The first of these found: `<answer>x</answer>`, `\\boxed{x}`, `#### x`, `Answer: x` / `정답: x` / a line `A: x`,
    "the answer is x" / "정답은 x입니다".
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return None
    readers = [
        ("tag", lambda: _tagged(answer)),
        ("boxed", lambda: boxed(answer)),
        ("hashes", lambda: _HASHES.findall(answer)),
        ("marker", lambda: _MARKER.findall(answer)),
        ("sentence", lambda: _SENTENCE_EN.findall(answer) + _SENTENCE_KO.findall(answer)),
    ]
    for kind, read in readers:
        spans = [_closed_bold(span.strip()) for span in read()]
        if spans:
            return Stated(kind, spans)
    return None


def _closed_bold(span: str) -> str:
    """`**Answer: 3**` leaves a lone closing mark on its span."""
    return span[:-2].rstrip() if span.endswith("**") and span.count("**") == 1 else span


def unwrap(text: str) -> str:
    """A text without the full stop, polite ending, bold marks and LaTeX delimiters around it."""
    for _ in range(4):
        text = text.strip().removesuffix(".").removesuffix("입니다").strip()
        for left, right in (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"), ("**", "**"), ("`", "`")):
            if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
                text = text[len(left) : -len(right)]
    return text.strip()


def boxed(answer: str) -> list[str]:
    """The contents of every `\\boxed{...}` (or `\\fbox`) with balanced braces, at most MAX_SPAN_CHARS long."""
    spans, position = [], 0
    for match in re.finditer(r"\\(?:boxed|fbox)\s?\{", answer):
        if match.start() < position:  # inside the one before
            continue
        depth, end = 1, match.end()
        limit = min(len(answer), end + MAX_SPAN_CHARS)
        while end < limit and depth:
            depth += {"{": 1, "}": -1}.get(answer[end], 0)
            end += 1
        if depth == 0:
            spans.append(answer[match.end() : end - 1])
        position = end
    return spans


def _tagged(answer: str) -> list[str]:
    pieces = answer.split("</answer>")[:-1]
    return [piece.rpartition("<answer>")[2] for piece in pieces if "<answer>" in piece]
