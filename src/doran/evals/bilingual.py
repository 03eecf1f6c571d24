"""A page in English and Korean with one switch, and without script: both texts stand in it, CSS shows one.

Only what doran itself writes is looked up, in headings, column names, captions and links; what models and users wrote
has other elements and stays as it is.
"""

# ruff: noqa: E501 (pairs of texts)
from __future__ import annotations

import re
from html import escape

_PLACES = re.compile(
    r"(<(?:(?:h2|h3|th|a|dt|summary|figcaption|footer)\b[^>]*|p class=\"(?:soft|note)\"|span class=\"?(?:said|soft)\"?)>)"
    r"([^<>]+)(?=</)"
)

SWITCH = (
    '<input type="radio" name="lang" id="lang-en" class="lang" checked><label for="lang-en">English</label>'
    '<input type="radio" name="lang" id="lang-ko" class="lang"><label for="lang-ko" lang="ko">한국어</label>'
)
CSS = """
.ko,#lang-ko:checked~* .en{display:none}
#lang-ko:checked~* .ko{display:inline}
.lang{position:absolute;opacity:0}
.lang+label{position:relative;top:14px;left:14px;margin-right:10px;font-size:.82rem;color:var(--soft);cursor:pointer}
.lang:checked+label{color:var(--ink);font-weight:600}
.lang:focus-visible+label{outline:2px solid var(--accent);outline-offset:2px}
"""

KOREAN = {
    "Results": "결과", "Plots": "그래프", "Curves": "학습 곡선", "Samples": "답변 예시", "Stages": "단계", "Recipe": "레시피",
    "Machine": "컴퓨터", "Notes": "참고", "More curves": "곡선 더 보기", "The resolved recipe": "실제로 쓴 레시피 전체",
    "Made by doran. This file is complete: it loads nothing and runs nothing.":
        "도란이 만든 페이지입니다. 이 파일 하나로 완결되며, 아무것도 불러오거나 실행하지 않습니다.",
    "stage": "단계", "time": "시간", "steps": "스텝", "tokens": "토큰", "parameters": "파라미터", "together": "합계",
    "model": "모델", "task": "과제", "English": "영어", "Korean": "한국어", "mean tokens": "평균 토큰 수",
    "All questions": "모든 질문", "Cost": "비용", "Scores": "점수", "The language": "언어 비용", "Every task": "모든 과제",
    "Held-out Countdown": "따로 떼어 둔 카운트다운 문제", "Sixteen samples a question": "질문마다 답 열여섯 개",
    "reward": "보상", "truncated": "잘린 답", "well-formed": "형식 맞음", "well formed": "형식 맞음",
    "thought in language": "질문 언어로 생각", "answer in language": "질문 언어로 답", "Hanja or Kana": "한자·가나 섞임",
    "thought in question's language": "질문 언어로 생각", "answer in it": "질문 언어로 답", "en − ko": "영어 − 한국어",
    "tokens per correct reply": "정답 하나당 토큰", "time per correct": "정답 하나당 시간", "USD per correct": "정답 하나당 달러",
    "as it came": "처음", "extended": "토큰 추가 뒤", "trained": "학습 뒤", "pass@1 en": "pass@1 영어", "pass@1 ko": "pass@1 한국어",
    "Korean thought": "한국어로 생각", "Korean answer": "한국어로 답", "p (paired)": "p (짝지은 검정)",
    "Korean: tokens a sentence": "한국어: 문장당 토큰", "Korean: tokens a syllable": "한국어: 음절당 토큰",
    "Korean: bytes a syllable": "한국어: 음절당 바이트", "Korean: bytes a token": "한국어: 토큰당 바이트",
    "Korean: syllables not cut": "한국어: 잘리지 않은 음절", "Korean: bits a byte": "한국어: 바이트당 비트",
    "English: tokens a sentence": "영어: 문장당 토큰", "English: bytes a token": "영어: 토큰당 바이트",
    "English: bits a byte": "영어: 바이트당 비트",
    "Loss": "손실", "Reward": "보상", "Held-out pass@1": "따로 떼어 둔 문제의 pass@1", "Mean response length": "답의 평균 길이",
    "Entropy": "엔트로피", "Length of replies": "답의 길이", "Correct replies of a question": "질문마다 맞힌 답의 수",
    "RL on the student base against the teacher's R1-Zero": "학생 모델의 강화 학습과 교사의 R1-Zero",
    # the large figures at the top, and what stands under them and under tables
    "Base": "베이스", "Student": "학생 모델", "Time": "시간", "Bits a byte": "바이트당 비트", "no answer": "답 없음",
    "held-out Countdown, pass@1": "따로 떼어 둔 카운트다운, pass@1", "GRPO on the base, no examples": "예시 없이 베이스에 바로 GRPO",
    "after the four stages": "네 단계를 마친 뒤", "dense, distilled from R1": "R1에서 증류한 밀집 모델",
    "all stages, this machine": "모든 단계, 이 컴퓨터", "tokens for the same sentences": "같은 문장에 드는 토큰",
    "95% intervals over questions; a truncated completion counts as no answer.":
        "구간은 질문 기준 95%이며, 잘린 답은 답이 없는 것으로 칩니다.",
    "Held-out text. Extending alone changes no English token; training then learns to use the new ones.":
        "학습에 쓰지 않은 글로 쟀습니다. 토큰을 더하기만 해서는 영어 토큰이 바뀌지 않으며, 새 토큰을 쓰는 법은 그 뒤의 학습에서 배웁니다.",
}

PATTERNS = tuple((re.compile(english), korean) for english, korean in (
    (r"(\d+) questions, (\d+) replies each\. Intervals are 95% and count questions, not replies; what was cut off counts as no answer\.",
     "질문 {0}개, 질문마다 답 {1}개. 구간은 95%이고 답이 아니라 질문을 기준으로 합니다. 잘린 답은 답이 없는 것으로 칩니다."),
    (r"pass@1 on (.+), ([\d.]+) to ([\d.]+)", "{0}의 pass@1, 구간 {1}~{2}"),
    (r"pass@1, was (.+)", "pass@1, 처음에는 {0}"),
    (r"Korean, was (.+)", "한국어, 처음에는 {0}"),
    (r"tokens a sentence, the same ids as before", "문장당 토큰, 번호까지 처음과 같음"),
    (r"tokens a sentence, ids changed", "문장당 토큰, 번호가 바뀜"),
    (r"(.+), Korean", "{0}, 한국어"),
    (r"Thought, ([\d,]+) words?", "생각, {0}단어"),
))  # fmt: skip


def bilingual(markup: str) -> str:
    """The page with Korean beside every known English text."""

    def both(found: re.Match[str]) -> str:
        opening, text = found.groups()
        korean = _korean(text)
        if korean is None:
            return found[0]
        return f'{opening}<span class="en">{text}</span><span class="ko" lang="ko">{korean}</span>'

    return _PLACES.sub(both, markup)


def _korean(text: str) -> str | None:
    """The Korean of an escaped English text, None where there is none."""
    if text in _ESCAPED:
        return _ESCAPED[text]
    matches = ((pattern.fullmatch(text), korean) for pattern, korean in PATTERNS)
    return next((korean.format(*match.groups()) for match, korean in matches if match), None)


_ESCAPED = {escape(english): escape(korean) for english, korean in KOREAN.items()}
