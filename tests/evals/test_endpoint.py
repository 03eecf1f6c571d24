"""A stub of an OpenAI-compatible server on the loopback: what is sent, what is made of the answers."""

from __future__ import annotations

import pytest

from doran.base.errors import UsageError
from doran.engine.request import SamplingParams
from doran.evals.endpoint import EndpointError, EndpointSampler, spoken
from doran.evals.samples import evaluate_kept
from doran.tasks.task import Item, right, wrong
from stub_server import server


def said(content="7", reason="stop", thought=None):
    message = {"role": "assistant", "content": content} | ({"reasoning_content": thought} if thought else {})
    return 200, {"choices": [{"message": message, "finish_reason": reason}],
                 "usage": {"prompt_tokens": 5, "completion_tokens": 9}}  # fmt: skip


class Sum:
    name = "sum"

    def score(self, item, text):
        answer = text.rpartition("</think>")[2].strip()
        return right(answer) if answer == item.answer else wrong(answer, "no")


ITEMS = [Item(f"question {i}", "7", "en", key=f"k{i}") for i in range(5)]
PARAMS = SamplingParams(32, temperature=0.6)


def run(url, k=2, samples=None, **more):
    sampler = EndpointSampler(url, "stub", PARAMS, wait=0.01, parallel=3, **more)
    return evaluate_kept(sampler, Sum(), ITEMS, k, PARAMS, {"task": "sum"}, samples=samples)


def test_replies_are_scored_with_their_thoughts_and_counted():
    with server(lambda body, n: said(thought="three and four")) as (url, seen):
        result = run(url)
    outcome = result.items[0].outcomes[0]
    assert outcome.correct and outcome.well_formed and outcome.length == 9 and outcome.thought_language == "en"
    assert result.facts["cost"]["tokens"] == 90 and result.facts["cost"]["prompt_tokens"] == 25
    path, body, _ = seen[0]
    assert path == "/v1/chat/completions" and body["model"] == "stub" and body["max_tokens"] == 32
    assert "stop" not in body and len({b["seed"] for _, b, _ in seen}) == 10


def test_cut_off_replies_are_no_answer_and_stop_strings_work_here():
    with server(lambda body, n: said("7|8", "length")) as (url, _):
        assert run(url).summary()["all"]["truncated"].value == 1.0
        stopped = run(url, stops=["|"]).summary()["all"]
    assert stopped["pass@1"].value == 1.0 and stopped["truncated"].value == 0.0


def test_a_busy_server_is_asked_again_and_a_refusal_is_one_line():
    with server(lambda body, n: (503, {}) if n <= 2 else said()) as (url, seen):
        assert run(url).summary()["all"]["pass@1"].value == 1.0 and len(seen) == 12
    with server(lambda body, n: (404, {"error": "no such model"})) as (url, _):
        with pytest.raises(EndpointError, match="no such model"):
            run(url)
    with server(lambda body, n: (200, {"hello": 1})) as (url, _):
        with pytest.raises(EndpointError, match="no chat completion"):
            run(url)
    with server(lambda body, n: (200, b"<html>")) as (url, _):
        with pytest.raises(EndpointError, match="not answer JSON"):
            run(url)


def test_a_server_that_asks_for_a_pause_gets_it_and_one_that_hangs_up_is_asked_again(monkeypatch):
    from email.message import Message
    from urllib.error import HTTPError

    from doran.evals.endpoint import asked_pause

    for told, pause in [("7", 7.0), ("100000", 120.0), ("Wed, 21 Oct", 0.0), ("", 0.0)]:
        headers = Message()
        headers["Retry-After"] = told
        assert asked_pause(HTTPError("u", 429, "busy", headers, None)) == pause

    def torn(body, n):
        return (200, b"torn") if n == 1 else said()

    with server(torn, cut=1) as (url, seen):
        assert run(url, k=1).summary()["all"]["pass@1"].value == 1.0
    assert len(seen) == 6


def test_no_server_and_no_address_are_named(monkeypatch):
    with pytest.raises(EndpointError, match="cannot be reached"):
        run("http://127.0.0.1:9")
    with pytest.raises(UsageError, match="not an address"):
        EndpointSampler("localhost:80", "m", PARAMS)


def test_only_missing_questions_are_asked_again(tmp_path):
    file = tmp_path / "r.samples.jsonl"
    with server(lambda body, n: said()) as (url, seen):
        whole = run(url, samples=file)
        kept = file.read_text().splitlines(keepends=True)
        file.write_text("".join(kept[:-2]))
        seen.clear()
        again = run(url, samples=file)
    assert len(seen) == 4 and again.items == whole.items


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with server(lambda body, n: said()) as (url, seen):
        run(url + "/v1/", k=1)
        monkeypatch.setenv("MY_KEY", "other")
        run(url, k=1, key_env="MY_KEY")
    assert seen[0][0] == "/v1/chat/completions" and seen[0][2] == "Bearer secret" and seen[-1][2] == "Bearer other"


def test_messages_become_text():
    assert spoken({"content": "7"}) == "7"
    assert spoken({"content": "7", "reasoning": "hm"}) == "<think>hm</think>7"
    assert spoken({"content": None, "reasoning_content": "cut"}) == "<think>cut"
