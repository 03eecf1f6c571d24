"""Korean in small: particles that fit the word before them, and numbers read aloud (Sino-Korean and native).

Not here: morphology. A word's particle follows from its last sound: 책을, 사과를, 12를 (십이를), 10을.
"""

from __future__ import annotations

import re
from fractions import Fraction

_DIGITS = "영일이삼사오육칠팔구"
_SMALL = ["", "십", "백", "천"]
_LARGE = ["", "만", "억", "조", "경"]
_NATIVE_ONES = ["", "하나", "둘", "셋", "넷", "다섯", "여섯", "일곱", "여덟", "아홉"]
_NATIVE_TENS = ["", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔"]
_BEFORE_COUNTER = {"하나": "한", "둘": "두", "셋": "세", "넷": "네", "스물": "스무"}
_RIEUL = 8  # ㄹ among the 27 final consonants


def final_consonant(word: str) -> int:
    """Number (1-27) of the final consonant of the word as read aloud, 0 for none.

    Numbers are read in Sino-Korean. A Latin word counts as vowel-final unless its last letter is read with a
    consonant (L, M, N, R as names of letters). Closing brackets and quotes are passed over.
    """
    word = word.rstrip(" \"'”’`)]}")
    if not word:
        return 0
    last = word[-1]
    if "가" <= last <= "힣":
        return (ord(last) - ord("가")) % 28
    if last.isascii() and last.isdigit():
        digits = re.search(r"[0-9][0-9,]*$", word)
        assert digits is not None
        reading = sino(int(digits[0].replace(",", "")) % 10**20)
        return (ord(reading[-1]) - ord("가")) % 28
    return {"l": _RIEUL, "m": 16, "n": 4, "r": _RIEUL}.get(last.lower(), 0)


def josa(word: str, pair: str) -> str:
    """The word with the fitting one of a pair of particles, consonant form first: josa("12", "을/를") -> "12를".

    "으로/로" takes 로 after ㄹ too (7로, 서울로).
    """
    after_consonant, after_vowel = pair.split("/")
    final = final_consonant(word)
    if final == _RIEUL and after_vowel.startswith("로"):
        final = 0
    return word + (after_consonant if final else after_vowel)


def sino(number: int) -> str:
    """Sino-Korean reading, below 10**20: 45 -> 사십오, 10000 -> 만, 0 -> 영."""
    if not 0 <= number < 10**20:
        raise ValueError(f"no reading for {number}")
    if number == 0:
        return "영"
    parts = []
    for large in reversed(range(len(_LARGE))):
        block = number // 10 ** (4 * large) % 10_000
        if block:
            text = "" if block == 1 and large == 1 else _sino_block(block)  # 10000 is 만, 10**8 is 일억
            parts.append(text + _LARGE[large])
    return "".join(parts)


def _sino_block(block: int) -> str:
    text = ""
    for power in (3, 2, 1, 0):
        digit = block // 10**power % 10
        if digit:
            text += ("" if digit == 1 and power else _DIGITS[digit]) + _SMALL[power]
    return text


def native(number: int, counting: bool = False) -> str:
    """Native Korean reading of 1-99: 21 -> 스물하나; before a counter (`counting`): 스물한 (명), 20 -> 스무 (살)."""
    if not 1 <= number <= 99:
        raise ValueError(f"native numerals run from 1 to 99, not {number}")
    tens, ones = _NATIVE_TENS[number // 10], _NATIVE_ONES[number % 10]
    if counting:
        tens = tens if ones else _BEFORE_COUNTER.get(tens, tens)
        ones = _BEFORE_COUNTER.get(ones, ones)
    return tens + ones


def read_number(text: str) -> int | None:
    """The number behind a Korean reading, or None: 사십오, 스물하나, 스무, 3만 5천, 12억, 1,200만."""
    text = re.sub(r"[\s,]", "", text)[:60]
    if not text:
        return None
    return _NATIVE_VALUES.get(text) or _read_sino(text)


_WITH_NATIVE = """
개 명 살 마리 권 번 배 장 송이 자루 시간 시 달 가지 그루 대 벌 켤레 잔 병 상자 봉지 조각 줄 칸 사람 묶음 곳 통 판
바퀴 그릇 포기 척 채
"""
_WITH_SINO = """
원 분 초 일 주 주일 개월 월 년 쪽 층 센티미터 밀리미터 미터 킬로미터 제곱미터 세제곱미터 그램 킬로그램 톤 리터
밀리리터 도 퍼센트 프로 회 차례 달러 세트 팀 다스 걸음 인분 평 편 세 학급 반 모둠
"""
_NATIVE_COUNTERS = frozenset(_WITH_NATIVE.split())
COUNTERS = (*_WITH_NATIVE.split(), *_WITH_SINO.split())
"""What may follow a number in words; those said with native numerals first."""
_DAYS = dict(zip("하루 이틀 사흘 나흘 닷새 엿새 이레 여드레 아흐레 열흘".split(), range(1, 11), strict=True))  # noqa: SIM905
_COUNTED = re.compile(rf"(.+?)\s?(?:{'|'.join(sorted(COUNTERS, key=len, reverse=True))})")
_ENDING = re.compile(r"(?:입니다|이에요|예요|이다|이야)$")


def count(number: int, counter: str) -> str:
    """A number with its counter as it is said: (3, "명") -> "세 명", (20, "살") -> "스무 살", (7, "년") -> "칠 년"."""
    if counter in _NATIVE_COUNTERS and 1 <= number <= 99:
        return f"{native(number, counting=True)} {counter}"
    return f"{sino(number)} {counter}"


def grouped(number: int) -> str:
    """A whole number with digits and 만, 억, 조, 천 as prices are written: 32000 -> 3만 2천, 120000000 -> 1억 2천만."""
    if not 0 <= number < 10**20:
        raise ValueError(f"no reading for {number}")
    parts = []
    for large in reversed(range(len(_LARGE))):
        block = number // 10 ** (4 * large) % 10_000
        if block:
            text = f"{block // 1000}천" if block % 1000 == 0 else str(block)
            parts.append(text + _LARGE[large])
    return " ".join(parts) or "0"


def won(number: int) -> str:
    """An amount of money: won(32000) -> "3만 2천 원"."""
    return f"{grouped(number)} 원"


def read_quantity(text: str) -> Fraction | None:
    """The value of an amount in words, with a counter or without: 세 개, 삼만 이천 원, 열흘, 일 점 오, 삼분의 이.

    None for anything else: the whole text must be the amount.
    """
    text = _ENDING.sub("", text.strip()[:60]).strip()
    if text in _DAYS:
        return Fraction(_DAYS[text])
    if "분의" in text:
        under, over = (read_number(part) for part in text.split("분의", 1))
        return Fraction(over, under) if under and over is not None else None
    number = read_number(text)
    if number is None and (match := _COUNTED.fullmatch(text)):
        text = match[1]
        number = read_number(text)
    if number is None and "점" in text:
        whole, _, digits = (part.replace(" ", "") for part in text.partition("점"))
        places = "".join(str(_DIGITS.index(d)) if d in _DIGITS else "0" if d == "공" else "x" for d in digits)
        whole_number = read_number(whole)
        if whole_number is not None and places.isdecimal():
            return whole_number + Fraction(int(places), 10 ** len(places))
    return None if number is None else Fraction(number)


_NATIVE_VALUES = {native(n, counting): n for n in range(1, 100) for counting in (False, True)}


def _read_sino(text: str) -> int | None:
    if text in ("영", "공"):
        return 0
    total, ceiling = 0, 10**20
    for block, large in re.findall(r"([^만억조경]*)([만억조경]?)", text)[:-1]:
        size = 10 ** (4 * _LARGE.index(large))
        number = _read_block(block) if block else 1
        if number is None or size >= ceiling:
            return None
        total, ceiling = total + number * size, size
    return total


def _read_block(block: str) -> int | None:
    """천/백/십 with Korean or Arabic digits before each; an Arabic number may stand alone (1200)."""
    match = re.fullmatch(r"(?:([0-9]+|[일이삼사오육칠팔구])?천)?(?:([0-9]+|[일이삼사오육칠팔구])?백)?"
                         r"(?:([0-9]+|[일이삼사오육칠팔구])?십)?([0-9]+|[일이삼사오육칠팔구])?", block)
    if not match:
        return None
    total = 0
    for digit, unit, power in zip(match.groups(), "천백십 ", (1000, 100, 10, 1), strict=True):
        if digit:
            total += (_DIGITS.index(digit) if digit in _DIGITS else int(digit)) * power
        elif unit in block:
            total += power
    return total
