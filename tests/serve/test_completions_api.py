"""Text completions through the real openai client, and the small endpoints."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(running: Any) -> Any:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


BASE = {"model": "tiny", "prompt": "안녕 3 +", "max_tokens": 20, "seed": 2}


def test_whole_streamed_and_token_prompts_agree(client: Any, running: Any) -> None:
    whole = client.completions.create(**BASE)
    streamed = list(client.completions.create(**BASE, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in streamed if c.choices) == whole.choices[0].text
    assert streamed[-1].usage.completion_tokens == 20
    tokenizer = running.service.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode(BASE["prompt"])]
    assert client.completions.create(**{**BASE, "prompt": ids}).choices[0].text == whole.choices[0].text


def test_several_prompts_echo_and_best_of(client: Any) -> None:
    got = client.completions.create(**{**BASE, "prompt": ["안녕", "답"]}, n=2, best_of=3, echo=True)
    assert [c.index for c in got.choices] == [0, 1, 2, 3]
    assert [c.text[:1] for c in got.choices] == ["안", "안", "답", "답"]
    assert got.usage.completion_tokens == 2 * 3 * 20


def test_logprobs(client: Any) -> None:
    got = client.completions.create(**BASE, logprobs=2).choices[0].logprobs
    assert len(got.tokens) == len(got.token_logprobs) == 20 and all(len(t) in (1, 2) for t in got.top_logprobs)


@pytest.mark.parametrize("given", [{"prompt": []}, {"prompt": [99999]}, {"best_of": 1, "n": 2}, {"suffix": "x"}])
def test_refusals(client: Any, given: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(**{**BASE, **given})


def test_models_tokens_health_and_metrics(client: Any, running: Any) -> None:
    assert [m.id for m in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").id == "tiny"
    with httpx.Client(base_url=running.url) as web:
        ids = web.post("/tokenize", json={"prompt": "안녕"}).json()["tokens"]
        assert web.post("/detokenize", json={"tokens": ids}).json()["prompt"].endswith("안녕")
        chat = web.post("/tokenize", json={"messages": [{"role": "user", "content": "안녕"}]}).json()
        assert chat["count"] == len(chat["tokens"]) > len(ids)
        assert web.post("/tokenize", json={}).status_code == 400
        assert web.get("/health").json() == {"status": "ok"}
        page = web.get("/metrics").text
    assert "doran_generated_tokens_total" in page and 'path="/v1/completions",status="200"' in page
