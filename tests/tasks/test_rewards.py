"""Reward parts by name; what raises, hangs, dies or gives NaN is named and counted, never a zero."""

# ruff: noqa: E501  (one case, one line)

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from doran.base.errors import ConfigError
from doran.tasks.reward_judge import read_score
from doran.tasks.rewards import PARTS, RewardFailed, RewardPart, Unjudged, get_reward, reward_names
from doran.tasks.task import Item, Score, Task, get_task


@dataclass(frozen=True)
class Asked:
    item: Item
    task: Task


def asked(answer: str | None = "4", language: Any = "en", task: Any = None) -> Asked:
    return Asked(Item("2 + 2?", answer, language, {"level": 1, "list": [1]}, "key"), task or get_task("arithmetic"))


def values(spec: str, *texts: str, question: Asked | None = None, cut: bool = False) -> list[float]:
    part = get_reward(spec)
    try:
        return part([question or asked()] * len(texts), texts, [cut] * len(texts))
    finally:
        part.close()


@pytest.mark.parametrize(("spec", "good", "bad"), [
    ("accuracy", "<think>2 + 2</think>4", "<think>4</think>5"),
    ("format", "<think>sum</think>4", "4"),
    ("language", "<think>I add them</think>4", "<think>더한다</think>4"),
    ("no_leak", "<think>add</think>사", "漢字"),
    ("exact", "Answer: 4", "Answer: four"),
    ("math", "\\boxed{8/2}", "\\boxed{5}"),
    ("regex:\\d+", "<think>x</think>42", "42 apples"),
    ("length:2-4", "one two three", "a " * 9),
])
def test_parts_tell_good_from_bad(spec: str, good: str, bad: str) -> None:
    assert values(spec, good, bad) == [1.0, 0.0]


def test_choice_and_partial_values() -> None:
    assert values("choice", "(B)", "B or C", question=asked("B")) == [1.0, 0.0]
    assert values("length:4-8", "a b", "a " * 12) == [0.5, 0.5]
    assert values("no_leak", "가나다漢") == [0.75]
    assert values("language", "<think>나는 add 한다 it</think>", question=asked(language="ko")) == [0.5]


@pytest.mark.parametrize("spec", ["accuracy", "exact", "math", "regex:\\d+"])
def test_what_was_cut_short_has_no_answer(spec: str) -> None:
    assert values(spec, "4", cut=True) == [0.0]


def test_accuracy_uses_the_tasks_own_batch() -> None:
    class Batched:
        name = "batched"

        def score_many(self, items: list[Item], texts: list[str]) -> list[Score]:
            return [Score(float(text), False, text, "") for text in texts]

    question = asked(task=Batched())
    part = get_reward("accuracy")
    assert part([question, asked(), question], ["0.25", "4", "0.5"], [False, False, True]) == [0.25, 1.0, 0.0]


@pytest.mark.parametrize(("spec", "says"), [
    ("acuracy", "did you mean accuracy"), ("regex", "write regex:PATTERN"), ("regex:(", "no regular expression"),
    ("format:3", "takes no argument"), ("length:9-2", "no range"), ("length:x", "no range"),
    ("json_schema:none.json", "none.json"), ("none.py:f", "no such file"), ("none.py", "no file and function"),
    ("judge:x", "no URL"), ("judge:file:///etc/passwd?model=m", "no URL"), ("judge:http://h/v1", "which model"),
    ("judge:http://h/v1?model=m&modle=x", "did you mean model"), ("judge:http://h/v1?model=m&timeout_s=0", "above 0"),
    ("judge:http://h/v1?model=m&key_env=DORAN_NO_SUCH_KEY", "is not set"),
])
def test_a_wrong_spec_is_one_clear_line(spec: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        get_reward(spec)


def test_names_say_how_to_write_them() -> None:
    assert len(reward_names()) == len(PARTS) + 1 and "regex:PATTERN" in reward_names()


def test_failures_carry_the_other_values_and_are_counted() -> None:
    def judge(case: Any) -> float:
        if case.text == "bad":
            raise Unjudged("odd", "it is bad")
        return float("nan") if case.text == "nan" else 1.0

    part = RewardPart("mine", judge)
    with pytest.raises(RewardFailed, match="reward mine: 2 of 3 completions could not be judged, the first: it is bad") as e:
        part([asked()] * 3, ["bad", "good", "nan"], [False] * 3)
    assert e.value.values == [None, 1.0, None] and "finite" in str(e.value.reasons[2])
    assert part.errors == {"odd": 1, "nan": 1} and part.asked == 3


# --- a schema ---------------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "required": ["name", "age"], "additionalProperties": False, "properties": {
    "name": {"type": "string", "minLength": 1, "pattern": "^[A-Z]"}, "age": {"type": "integer", "minimum": 0},
    "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    "more": {"anyOf": [{"type": "null"}, {"type": "number", "maximum": 1}]}}}  # fmt: skip


def test_json_answers_against_a_schema(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps(SCHEMA))
    good = ['{"name": "Kim", "age": 3}', '<think>{}</think>```json\n{"name": "Kim", "age": 3.0, "tags": ["a"]}\n```',
            '{"name": "Kim", "age": 3, "more": null}']
    bad = ["{}", "[]", "none", "", '{"name": "kim", "age": 3}', '{"name": "Kim", "age": -1}', '{"name": "Kim", "age": true}',
           '{"name": "Kim", "age": 3, "x": 1}', '{"name": "Kim", "age": 3, "tags": ["c"]}', '{"name": "Kim", "age": NaN}',
           '{"name": "Kim", "age": 3, "tags": ["a", "a", "a"]}', '{"name": "Kim", "age": 3, "more": 2}', "[" * 9000]
    assert values(f"json_schema:{file}", *good) == [1.0] * len(good)
    assert values(f"json_schema:{file}", *bad) == [0.0] * len(bad)


@pytest.mark.parametrize(("text", "says"), [
    ("{", "not valid JSON"), ("[]", "a schema is a JSON object"), ('{"$ref": "x"}', "not supported"),
    ('{"properties": {"a": {"tpye": "string"}}}', "did you mean type"), ('{"type": "text"}', "no type"),
    ('{"pattern": "("}', "pattern"),
])
def test_a_schema_that_is_not_understood_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ConfigError, match=says):
        get_reward(f"json_schema:{tmp_path / 's.json'}")


# --- a user's file ----------------------------------------------------------------------------------------------------

MINE = '''
import time
import helper_beside_it
def short(reply): return 1.0 if len(reply) < 10 else 0.0
def all_of(prompt, completion, answer, reply, thought, language, meta, extra=2):
    print("noise")
    return [prompt, completion, answer, reply, thought, language, meta["level"]] == \\
        ["2 + 2?", "<think>hm</think>4", "4", "4", "hm", "en", 1] and extra == 2
def odd(reply):
    if reply == "raise": raise ValueError("no good")
    if reply == "hang": time.sleep(99)
    if reply == "die": import os; os._exit(1)
    return {"nan": float("nan"), "text": "five", "none": None}.get(reply, 0.5)
def many(completions, answer, **kwargs): return [float(a in c) for c, a in zip(completions, answer)]
def few(completions): return [1.0]
def strange(picture): return 1.0
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "helper_beside_it.py").write_text("")
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_a_users_function_gets_what_it_asks_for(mine: Path) -> None:
    assert values(f"{mine}:short", "<think>a long thought</think>4", "x" * 20) == [1.0, 0.0]
    assert values(f"{mine}:all_of", "<think>hm</think>4") == [1.0]
    assert values(f"{mine}:many", "4", "5") == [1.0, 0.0]


def test_what_a_users_function_does_wrong_is_named_and_counted(mine: Path) -> None:
    part = get_reward(f"{mine}:odd?timeout_s=3")
    texts = ["raise", "fine", "hang", "die", "nan", "text", "none", "fine"]
    with pytest.raises(RewardFailed, match="mine.odd: 6 of 8 .* ValueError: no good .mine.py, line 10.") as caught:
        part([asked()] * 8, texts, [False] * 8)
    assert caught.value.values == [None, 0.5, None, None, None, None, None, 0.5]
    assert part.errors == {"raised": 1, "timeout": 1, "died": 1, "nan": 1, "no number": 2}
    part.close()
    with pytest.raises(RewardFailed, match="no list of 2 numbers"):
        values(f"{mine}:few", "a", "b")


@pytest.mark.parametrize(("function", "says"), [("nothing", "defines no function nothing"), ("strange", "it wants picture")])
def test_a_file_that_cannot_work_is_refused_before_training(mine: Path, function: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        get_reward(f"{mine}:{function}")
    mine.write_text("def f(:")
    with pytest.raises(ConfigError, match="SyntaxError"):
        get_reward(f"{mine}:f")


# --- a judge over HTTP ------------------------------------------------------------------------------------------------


class Stub(BaseHTTPRequestHandler):
    """Says what the reply under judgement tells it to; `seen` counts requests by reply."""

    seen: dict[str, int] = {}
    bodies: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"]
        mark = next(line for line in text.splitlines() if line.endswith(" REPLY"))
        reply = text.split(mark)[2].strip() if text.startswith(mark) else text.split(mark + "\n")[1].strip()
        self.bodies.append({**body, "path": self.path, "key": self.headers.get("Authorization")})
        self.seen[reply] = count = self.seen.get(reply, 0) + 1
        if reply == "slow":
            threading.Event().wait(1.5)
        status = {"busy once": 429 if count == 1 else 200, "forbidden": 403, "broken": 500}.get(reply, 200)
        content = {"vague": "quite nice", "outside": "Score: 11"}.get(reply, f"Fine.\nScore: {8 if reply else 0}/10")
        data = json.dumps({"choices": [{"message": {"content": content}}], "usage": {"prompt_tokens": 9, "completion_tokens": 2}})
        try:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"{}" if reply == "no completion" else data.encode())
        except OSError:
            pass

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    stub = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=stub.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{stub.server_port}/v1"
    stub.shutdown()
    stub.server_close()


def test_a_judge_grades_replies_and_never_sees_thoughts(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    part = get_reward(f"judge:{server}?model=big&key_env=JUDGE_KEY")
    assert part([asked()] * 3, ["<think>hidden</think>yes", "busy once", "<think>only"], [False] * 3) == [0.8, 0.8, 0.0]
    last = next(b for b in Stub.bodies if "\nyes\n" in b["messages"][0]["content"])
    assert last["path"] == "/v1/chat/completions" and last["key"] == "Bearer secret" and last["model"] == "big"
    assert "hidden" not in json.dumps(last) and "right answer is known to be: 4" in last["messages"][0]["content"]
    assert part.usage == {"prompt_tokens": 18, "completion_tokens": 4} and Stub.seen["busy once"] == 2


def test_a_judge_that_fails_is_asked_again_and_then_counted(server: str) -> None:
    part = get_reward(f"judge:{server}?model=m&retries=1")
    texts = ["forbidden", "broken", "vague", "outside", "no completion", "good"]
    with pytest.raises(RewardFailed, match="judge: 5 of 6") as caught:
        part([asked()] * 6, texts, [False] * 6)
    assert caught.value.values == [None] * 5 + [0.8]
    assert part.errors == {"http 403": 1, "http 500": 1, "unreadable": 3}
    assert Stub.seen["forbidden"] == 1 and Stub.seen["broken"] == 2  # what cannot get better is not asked again
    with pytest.raises(RewardFailed, match="127.0.0.1:9"):
        values("judge:http://127.0.0.1:9/v1?model=m&retries=1", "x")


def test_a_judge_that_is_late_is_not_waited_for(server: str) -> None:
    part = get_reward(f"judge:{server}?model=m&timeout_s=0.3&retries=1")
    with pytest.raises(RewardFailed, match=r"no verdict within 0\.3 s"):
        part([asked()], ["slow"], [False])
    assert part.errors == {"timeout": 1}


def test_scores_are_read_from_the_end() -> None:
    assert read_score("Score: 2 at first\nScore: 7.5") == 0.75 and read_score("점수: 10") == 1.0
    assert read_score("<think>Score: 1</think>**Score:** 3/10") == 0.3
    for text in ("", "8", "Score: 12", "Score: -1", "Score: none"):
        with pytest.raises(Unjudged):
            read_score(text)
