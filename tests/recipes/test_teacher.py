"""Asking a teacher: what is kept when it dies, what is asked again, what it costs. No network: a scripted sampler."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from doran.base.errors import BudgetReached, ConfigError
from doran.evals.endpoint import EndpointError
from doran.evals.samples import Reply
from doran.plan.hardware import Hardware
from doran.plan.meter import Meter
from doran.plan.prices import Budget, Prices
from doran.recipes.questions import Question
from doran.recipes.teacher import EndpointTeacher, Said, gather, read_replies, receipt_of
from doran.tasks.task import Item

PRICES = Prices(krw_per_usd=1000, usd_per_kwh=0.0)


class Script:
    """Stands for EndpointSampler: `answer(key, j)` says or raises; `asked` counts."""

    parallel = 3

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked, self.lock = answer, Counter(), threading.Lock()

    def completion(self, item: Item, j: int) -> tuple[Reply, int]:
        with self.lock:
            self.asked[item.key, j] += 1
            text = self.answer(item.key, sum(self.asked.values()))
        return Reply(text, tokens=200, truncated=text == "long"), 100


def questions(count: int) -> list[Question]:
    return [Question(Item(f"question {i}", "7", "en", key=f"k{i}"), None) for i in range(count)]  # type: ignore[arg-type]


def teacher(script: Script, budget: Budget | None = None, price: tuple[float, float] | None = (1.0, 5.0)) -> Any:
    meter = Meter(Hardware(slug="own", watts=1), PRICES, budget)
    return EndpointTeacher(script, meter, price)  # type: ignore[arg-type]


def failure(code: int | None) -> EndpointError:
    error = EndpointError(f"the server said {code}")
    error.code = code
    return error


def test_a_server_that_dies_half_way_is_named_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    def dying(key: str, n: int) -> str:
        if n > 7:
            raise failure(503)
        return f"to {key}"

    file, first = tmp_path / "replies.jsonl", Script(dying)
    with pytest.raises(EndpointError, match=r"said 503; 7 of 20 replies came before that") as raised:
        gather(teacher(first), questions(10), 2, file, lambda n: None)
    assert "same command" in str(raised.value)
    kept = read_replies(file, questions(10))
    assert len(kept) == 7 and sum(first.asked.values()) < 20  # the rest was not sent
    well, seen = Script(lambda key, n: f"to {key}"), []
    said = gather(teacher(well), questions(10), 2, file, seen.append)
    assert [[s.text for s in group] for group in said] == [[f"to k{i}"] * 2 for i in range(10)]
    assert sum(well.asked.values()) == 13 and not {(f"k{i}", j) for i, j in kept} & set(well.asked) and seen[-1] == 20
    again = Script(lambda key, n: "never")
    assert gather(teacher(again), questions(10), 2, file, lambda n: None) == said and not again.asked


def test_a_refused_question_is_counted_and_refusals_alone_end_it(tmp_path: Path) -> None:
    def picky(key: str, n: int) -> str:
        if key == "k2":
            raise failure(400)
        return "long" if key == "k1" else "7"

    said = gather(teacher(Script(picky)), questions(4), 1, tmp_path / "a.jsonl", lambda n: None)
    assert [group[0].finish_reason for group in said] == ["stop", "length", "refused", "stop"]
    assert said[2][0] == Said("the server said 400", "refused", 0, 0)

    def never(key: str, n: int) -> str:
        raise failure(422)

    script = Script(never)
    with pytest.raises(EndpointError, match="questions were all refused: the server said 422"):
        gather(teacher(script), questions(50), 1, tmp_path / "b.jsonl", lambda n: None)
    assert 8 <= sum(script.asked.values()) <= 16


def test_money_is_counted_by_the_token_and_a_budget_stops_the_asking(tmp_path: Path) -> None:
    file, script = tmp_path / "replies.jsonl", Script(lambda key, n: "7")
    made = teacher(script)
    gather(made, questions(5), 2, file, lambda n: None)
    each = (100 * 1.0 + 200 * 5.0) / 1e6
    assert made.meter.bought_usd == pytest.approx(10 * each)
    assert made.meter.usd(made.meter.so_far()) == pytest.approx(10 * each)
    receipt = receipt_of(file, (1.0, 5.0))
    assert receipt == {"replies": 10, "prompt_tokens": 1000, "tokens": 2000, "usd": pytest.approx(10 * each)}
    assert receipt_of(file, None)["usd"] is None and receipt_of(tmp_path / "none", (1, 1))["replies"] == 0

    poor, file = teacher(script, Budget(4.5 * each, "USD")), tmp_path / "poor.jsonl"
    with pytest.raises(BudgetReached):
        gather(poor, questions(50), 2, file, lambda n: None)
    assert 5 <= len(read_replies(file, questions(50))) <= 5 + 2 * script.parallel


def test_replies_to_other_questions_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    gather(teacher(Script(lambda key, n: "7")), questions(3), 1, file, lambda n: None)
    with pytest.raises(ConfigError, match="question 2 is another one"):
        read_replies(file, questions(2))
    with file.open("a") as torn:
        torn.write('{"question": 0, "sam')
    assert len(read_replies(file, questions(3))) == 3
