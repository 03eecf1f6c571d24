"""Word problems from templates: people, things and one to three steps, the same problem in English and in Korean.

Not here: a grammar. A template is two texts and the sum they ask for; particles and counters are filled in by rule.
An item's key hashes its template and numbers; names, things and language are decoration and left out.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from doran.base.config import StrictModel
from doran.base.errors import ConfigError
from doran.tasks.arithmetic import solution_steps
from doran.tasks.expression import ExpressionError, parse, steps
from doran.tasks.korean import josa
from doran.tasks.math import judge_number
from doran.tasks.task import (
    Item,
    Language,
    Languages,
    Score,
    Split,
    content_key,
    number_instructions,
    random_items,
)

__all__ = ["WordsConfig", "WordsTask", "solution_steps"]


@dataclass(frozen=True)
class Template:
    """A problem. `sum` is an expression in a, b, c, d; in the texts `{a}` is a number, `{name}`, `{other}`, `{things}`
    words, `{unit}` the Korean counter, and `{word|이/가}` the word with its particle."""

    id: str
    sum: str
    en: str
    ko: str


TEMPLATES = (
    Template(
        "more", "a+b",
        "{name} has {a} {things}. {other} gives {name} {b} more. How many {things} does {name} have now?",
        "{name|은/는} {things|을/를} {a}{unit} 가지고 있습니다. {other|이/가} {b}{unit|을/를} 더 주었습니다. "
        "{name|은/는} 이제 {things|을/를} 몇 {unit} 가지고 있습니까?",
    ),
    Template(
        "fewer", "a-b",
        "There are {a} {things} on the table. {name} takes {b} of them. How many {things} are left?",
        "탁자 위에 {things|이/가} {a}{unit} 있습니다. {name|이/가} 그중 {b}{unit|을/를} 가져갔습니다. "
        "남은 {things|은/는} 몇 {unit}입니까?",
    ),
    Template(
        "boxes", "a*b",
        "{name} has {a} boxes with {b} {things} in each. How many {things} does {name} have in all?",
        "{name|은/는} {things|이/가} {b}{unit}씩 든 상자를 {a}개 가지고 있습니다. "
        "{name|이/가} 가진 {things|은/는} 모두 몇 {unit}입니까?",
    ),
    Template(
        "share", "a/b",
        "{name} shares {a} {things} equally among {b} friends. How many {things} does each friend get?",
        "{name|이/가} {things} {a}{unit|을/를} 친구 {b}명에게 똑같이 나누어 줍니다. "
        "친구 한 명은 {things|을/를} 몇 {unit} 받습니까?",
    ),
    Template(
        "lost_found", "a-b+c",
        "{name} had {a} {things}, lost {b} and then found {c}. How many {things} does {name} have now?",
        "{name|은/는} {things|을/를} {a}{unit} 가지고 있다가 {b}{unit|을/를} 잃어버린 뒤 "
        "{c}{unit|을/를} 찾았습니다. {name|은/는} 이제 {things|을/를} 몇 {unit} 가지고 있습니까?",
    ),
    Template(
        "boxes_loose", "a*b+c",
        "{name} buys {a} boxes of {b} {things} and {c} loose {things}. How many {things} does {name} buy in all?",
        "{name|은/는} {things|이/가} {b}{unit}씩 든 상자 {a}개와 낱개로 {things} {c}{unit|을/를} 샀습니다. "
        "{name|이/가} 산 {things|은/는} 모두 몇 {unit}입니까?",
    ),
    Template(
        "boxes_given", "a*b-c",
        "{name} fills {a} bags with {b} {things} each and gives {c} {things} to {other}. "
        "How many {things} does {name} keep?",
        "{name|은/는} 봉지 {a}개에 {things|을/를} {b}{unit}씩 담은 뒤 {other}에게 {c}{unit|을/를} 주었습니다. "
        "{name}에게 남은 {things|은/는} 몇 {unit}입니까?",
    ),
    Template(
        "together_share", "(a+b)/c",
        "{name} has {a} {things} and {other} has {b}. They put them together and share them equally among {c} "
        "children. How many {things} does each child get?",
        "{name|은/는} {things|을/를} {a}{unit}, {other|은/는} {b}{unit} 가지고 있습니다. "
        "이것을 모아 어린이 {c}명에게 똑같이 나누어 주면 한 명은 {things|을/를} 몇 {unit} 받습니까?",
    ),
    Template(
        "times_total", "a*b+a",
        "{name} has {a} {things}. {other} has {b} times as many. How many {things} do they have together?",
        "{name|은/는} {things|을/를} {a}{unit} 가지고 있습니다. {other|은/는} 그 {b}배를 가지고 있습니다. "
        "두 사람이 가진 {things|은/는} 모두 몇 {unit}입니까?",
    ),
    Template(
        "two_kinds", "a*b+c*d",
        "{name} has {a} boxes of {b} {things} and {c} boxes of {d} {things}. How many {things} are there in all?",
        "{name}에게 {things|이/가} {b}{unit}씩 든 상자 {a}개와 {d}{unit}씩 든 상자 {c}개가 있습니다. "
        "{things|은/는} 모두 몇 {unit}입니까?",
    ),
    Template(
        "days_left", "(a-b*c)/d",
        "{name} has {a} {things} and gives away {b} a day for {c} days. The rest is shared equally among {d} "
        "friends. How many {things} does each friend get?",
        "{name|은/는} {things} {a}{unit} 가운데 하루에 {b}{unit}씩 {c}일 동안 나누어 주고, "
        "남은 것을 친구 {d}명에게 똑같이 나누어 줍니다. 친구 한 명은 {things|을/를} 몇 {unit} 받습니까?",
    ),
    Template(
        "bus", "a-b+c",
        "There are {a} people on a bus. At the next stop {b} get off and {c} get on. "
        "How many people are on the bus now?",
        "버스에 사람이 {a}명 타고 있습니다. 다음 정류장에서 {b}명이 내리고 {c}명이 탔습니다. "
        "지금 버스에 탄 사람은 몇 명입니까?",
    ),
)

_NAMES = (("Minji", "민지"), ("Junho", "준호"), ("Jihoon", "지훈"), ("Suhyun", "수현"), ("Yuna", "유나"),
          ("Dojin", "도진"), ("Seoyeon", "서연"), ("Anna", "안나"), ("Tom", "톰"), ("Jiwoo", "지우"))
_THINGS = (("apples", "사과", "개"), ("books", "책", "권"), ("pencils", "연필", "자루"), ("marbles", "구슬", "개"),
           ("notebooks", "공책", "권"), ("stickers", "스티커", "장"), ("flowers", "꽃", "송이"),
           ("cards", "카드", "장"), ("candies", "사탕", "개"), ("crayons", "크레용", "자루"),
           ("tickets", "입장권", "장"), ("eggs", "달걀", "개"))


class WordsConfig(StrictModel):
    """Largest number in the text, largest result of any step, most steps (1-3)."""

    max_number: int = 60
    max_value: int = 99
    max_steps: int = 3
    instructions: bool = False


class WordsTask:
    """The task `word_problems`."""

    name = "word_problems"

    def __init__(self, config: WordsConfig | None = None) -> None:
        self.config = config or WordsConfig()
        c = self.config
        if not 1 <= c.max_steps <= 3 or not 10 <= c.max_number <= 10_000 or c.max_value < 10:
            raise ConfigError("word_problems cannot make problems of this size",
                              hint="max_steps 1 to 3, max_number 10 to 10000, max_value 10 or more")

    def generate(self, split: Split, n: int, seed: int, language: Languages = "mixed") -> list[Item]:
        """`n` problems; the held-out ones are all different (UsageError if there are not so many)."""
        return random_items(self.name, split, n, seed, language, self._item)

    def _item(self, rng: random.Random, language: Language) -> Item:
        template = rng.choice([t for t in TEMPLATES if len(re.findall(r"[-+*/]", t.sum)) <= self.config.max_steps])
        expression, values = self._numbers(rng, template)
        (name, other), thing = rng.sample(_NAMES, 2), rng.choice(_THINGS)
        side = 0 if language == "en" else 1
        fields = {**values, "name": name[side], "other": other[side], "things": thing[side], "unit": thing[2]}
        text = fill(template.en if language == "en" else template.ko, fields)
        working = steps(parse(expression))
        meta = {"template": template.id, "expression": expression, "steps": working}
        return Item(
            text + (number_instructions(language) if self.config.instructions else ""),
            str(working[-1][1]),
            language,
            meta,
            content_key(self.name, template.id, expression),
        )

    def _numbers(self, rng: random.Random, template: Template) -> tuple[str, dict[str, str]]:
        """The sum with numbers in it, and the numbers; every step a whole number from 1 to max_value."""
        for _ in range(50_000):
            drawn = {letter: _number(rng, template.sum, letter, self.config.max_number) for letter in "abcd"}
            expression = template.sum.translate({ord(letter): str(number) for letter, number in drawn.items()})
            try:
                if all(1 <= result <= self.config.max_value for _, result in steps(parse(expression))):
                    return expression, {letter: str(number) for letter, number in drawn.items()}
            except ExpressionError:
                continue
        raise ConfigError(f"word_problems found no numbers for {template.id}", hint="raise max_value")

    def score(self, item: Item, completion_text: str) -> Score:
        """1 if the stated number is the item's, else 0."""
        return judge_number(item.answer or "", completion_text)


def _number(rng: random.Random, sum_: str, letter: str, largest: int) -> int:
    """2 to 12 for a factor or divisor, up to `largest` for the rest: products stay small and drawing is quick."""
    factor = re.search(rf"\*{letter}|{letter}\*|/{letter}", sum_)
    return rng.randint(2, min(12, largest) if factor else largest)


def fill(text: str, fields: dict[str, str]) -> str:
    """Put the fields in; `{word|이/가}` puts the fitting particle after the word."""

    def put(match: re.Match[str]) -> str:
        word, pair = fields[match[1]], match[2]
        return josa(word, pair) if pair else word

    return re.sub(r"\{(\w+)(?:\|([^}]+))?\}", put, text)
