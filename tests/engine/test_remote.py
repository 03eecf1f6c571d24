"""Rollouts over HTTP, against a stand-in on the loopback that answers as vLLM or SGLang do, with doran's own engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from doran.arch.presets import tiny
from doran.base.errors import UsageError
from doran.engine.engine import Engine
from doran.engine.remote import RemoteEngine, RemoteError
from doran.engine.request import Completion, SamplingParams
from doran.models.families import build
from doran.models.weights import load_model, save_model

CONFIG = tiny("qwen2", vocab_size=40, hidden_size=32, num_hidden_layers=1, max_position_embeddings=32)


class StandIn(ThreadingHTTPServer):
    """Serves the model in `folder`; `calls`: what was posted."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.calls, self.lock = folder, [], threading.Lock()
        self.reload()

    def reload(self) -> None:
        self.engine = Engine(load_model(self.folder))

    def completion(self, ids: list[int], most: int, temperature: float, seed: int, stops: list[int]) -> Completion:
        params = SamplingParams(most, temperature, seed=seed, stop_token_ids=tuple(stops))
        with self.lock:
            return self.engine.generate([ids], params)[0][0]


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append((self.path, body))
        answer = self.answer(body)
        text = json.dumps(answer).encode() if answer is not None else b"no such page"
        self.send_response(200 if answer is not None else 404)
        self.end_headers()
        self.wfile.write(text)

    def answer(self, body: dict[str, Any]) -> Any:
        say = self.server.completion
        if self.path == "/v1/completions":
            c = say(body["prompt"], body["max_tokens"], body["temperature"], body["seed"], body["stop_token_ids"])
            ids = {"token_ids": c.token_ids} if body["return_token_ids"] and body["model"] == "policy" else {}
            choice = {"text": "", "logprobs": {"token_logprobs": c.logprobs}, "finish_reason": c.finish_reason}
            return {"choices": [choice | ids]}
        if self.path == "/generate":
            s = body["sampling_params"]
            c = say(body["input_ids"], s["max_new_tokens"], s["temperature"], s["sampling_seed"], s["stop_token_ids"])
            told = [[p, i, None] for p, i in zip(c.logprobs, c.token_ids)]
            return {"meta_info": {"output_token_logprobs": told, "finish_reason": {"type": c.finish_reason}}}
        if self.path in ("/collective_rpc", "/update_weights_from_disk"):
            self.server.reload()
        return {} if self.path != "/missing" else None

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StandIn]:
    save_model(build(CONFIG, seed=0), tmp_path / "policy")
    standing = StandIn(tmp_path / "policy")
    threading.Thread(target=standing.serve_forever, daemon=True).start()
    yield standing
    standing.shutdown()
    standing.server_close()


def remote(server: StandIn, kind: str = "vllm", served: str = "policy") -> RemoteEngine:
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    return RemoteEngine(build(CONFIG, seed=0), url, served, server.folder, kind, parallel=3)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_server_gives_what_the_engine_here_gives(server, kind: str) -> None:
    engine = remote(server, kind)
    prompts, params = [[2, 3], [4]], [SamplingParams(6, seed=s, stop_token_ids=(1,)) for s in (10, 20)]
    groups = engine.generate(prompts, params, n=2)
    for prompt, p, group in zip(prompts, params, groups, strict=True):
        for j, c in enumerate(group):
            (own,) = Engine(engine.model).generate([prompt], SamplingParams(6, seed=p.seed + j, stop_token_ids=(1,)))[0]
            assert c.token_ids == own.token_ids and c.finish_reason == own.finish_reason
            assert c.logprobs == pytest.approx(own.logprobs, abs=1e-5)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_new_weights_reach_the_server(server, kind: str) -> None:
    engine = remote(server, kind)
    with torch.no_grad():
        for p in engine.model.parameters():
            p.mul_(-3.0)
    params = SamplingParams(8, temperature=0.0)
    before = engine.generate([[2, 3, 4]], params)[0][0]
    engine.update()
    after = engine.generate([[2, 3, 4]], params)[0][0]
    own = Engine(engine.model).generate([[2, 3, 4]], params)[0][0]
    assert after.token_ids == own.token_ids and after.logprobs != before.logprobs
    reloads = [(path, body) for path, body in server.calls if path not in ("/v1/completions", "/generate")]
    assert reloads == {
        "vllm": [("/collective_rpc", {"method": "reload_weights"}), ("/reset_prefix_cache", {})],
        "sglang": [("/update_weights_from_disk", {"model_path": str(server.folder)})],
    }[kind]


def test_rl_learns_from_a_server_what_it_learns_here(server, tmp_path) -> None:
    from doran.base.config import build as build_settings
    from doran.base.runlog import read_metrics
    from doran.train.grpo import GrpoSettings, run_grpo
    from doran.train.rollout import Dialect, Reward, draw_from

    settings = build_settings(GrpoSettings, {
        "steps": 2, "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 5, "lr": 1e-2, "bf16": False,
        "checkpoint_every_s": None, "warmup_steps": 0, "drop_zero_variance": False,
    })  # fmt: skip
    dialect = Dialect(lambda item: [2, item], lambda ids: " ".join(map(str, ids)), (1,))
    rewards = [Reward("sevens", 1.0, lambda items, texts, cs: [float(sum(c.token_ids) % 7) for c in cs])]
    engine = remote(server)
    run_grpo(engine.model, dialect, draw_from([3, 4, 5]), rewards, settings, tmp_path / "rl", remote=engine)
    rows = read_metrics(tmp_path / "rl" / "metrics.jsonl")
    assert all(row["gap/max"] < 1e-4 and row["loss"] != 0 for row in rows)  # it sampled with the weights of the step
    assert sum(path == "/collective_rpc" for path, _ in server.calls) == 3


def test_a_server_without_ids_is_named(server) -> None:
    with pytest.raises(RemoteError, match="without ids and logprobs .* need vLLM 0.10.2"):
        remote(server, served="other").generate([[2]], SamplingParams(2))


def test_a_server_that_is_not_there_or_refuses_is_named(server) -> None:
    engine = remote(server)
    with pytest.raises(RemoteError, match="/missing refused with 404: no such page"):
        engine._post("/missing", {})
    engine.url = "http://127.0.0.1:9"
    with pytest.raises(RemoteError, match="no answer .*is the server running"):
        engine.generate([[2]], SamplingParams(2))
    with pytest.raises(UsageError, match="not an address"):
        RemoteEngine(engine.model, "localhost", "policy", Path("x"))
    with pytest.raises(UsageError, match="did you mean vllm"):
        RemoteEngine(engine.model, "http://x", "policy", Path("x"), "vlm")
