"""The engine's thread survives what should not happen, and a session that failed gives everything back."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from doran.engine.live import Live

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "안녕"}], "max_tokens": 10, "seed": 1}


def test_a_step_that_fails_is_a_500_for_those_who_ran_and_nothing_for_the_next(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Live.step, []

    def failing(self: Live) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("inside")
        real(self)

    monkeypatch.setattr(Live, "step", failing)
    answer = httpx.post(f"{running.url}/v1/chat/completions", json=CHAT, timeout=60)
    assert answer.status_code == 500, (answer.text, len(calls))
    assert "inside" not in answer.text and answer.json()["error"]["type"] == "api_error"
    streamed = httpx.post(f"{running.url}/v1/chat/completions", json={**CHAT, "stream": True}, timeout=60)
    assert streamed.status_code == 200 and streamed.text.endswith("data: [DONE]\n\n")
    assert running.settled()


def test_a_stream_that_fails_midway_ends_with_an_error_event(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Live.step, []

    def failing(self: Live) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("inside")
        real(self)

    for path, body in (("/v1/chat/completions", CHAT), ("/v1/messages", CHAT)):
        calls.clear()
        monkeypatch.setattr(Live, "step", failing)
        text = httpx.post(f"{running.url}{path}", json={**body, "stream": True}, timeout=60).text
        assert '"error"' in text and "inside" not in text
    assert running.settled()
