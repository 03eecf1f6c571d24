"""A tiny random model behind a real server on loopback, in this process so that its slots can be counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from doran.arch.config import ModelConfig
from doran.engine.engine import Engine
from doran.models.families import build
from doran.serve.generation import Service
from doran.serve.settings import ServeSettings
from doran.text.tokenizer import Tokenizer, train_bpe

SLOTS = 8


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    texts = ['도란도란 이야기 생각 답 think about 3 + 4 = 7, {"a": 1, "b": [2]} the answer is', "漢字 かな Привет"] * 4
    return train_bpe(texts, vocab_size=900, whole_numbers_up_to=99)


def tiny_service(tokenizer: Tokenizer, **settings: object) -> Service:
    config = ModelConfig(
        model_type="qwen2", vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=1024, initializer_range=0.05,
        tie_word_embeddings=True,
    )  # fmt: skip
    given = ServeSettings.model_validate({"name": "tiny", "shutdown_seconds": 0.2, **settings})
    return Service(Engine(build(config, seed=1), max_batch=SLOTS), tokenizer, tokenizer.stop_ids, given)


@dataclass
class Running:
    """A server's address and its service."""

    url: str
    service: Service

    def settled(self, seconds: float = 10.0) -> bool:
        """Do all slots come back?"""
        worker, end = self.service.worker, time.monotonic() + seconds
        while time.monotonic() < end:
            if worker.pending == 0 and worker.free_slots == SLOTS:
                return True
            time.sleep(0.02)
        return False


def run_server(service: Service, keys: dict[str, str] | None = None) -> Iterator[Running]:
    import uvicorn

    from doran.serve.app import create_app

    config = uvicorn.Config(create_app(service, keys), host="127.0.0.1", port=0, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Running(f"http://127.0.0.1:{port}", service)
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def running(tokenizer: Tokenizer) -> Iterator[Running]:
    pytest.importorskip("fastapi")
    yield from run_server(tiny_service(tokenizer, price_input=1.0, price_output=2.0, max_tokens_default=40))


@pytest.fixture(scope="session")
def serving(tokenizer: Tokenizer) -> SimpleNamespace:
    """For tests that need a server of their own: `service(**settings)`, `run(service, keys)`, `slots`."""
    return SimpleNamespace(service=lambda **given: tiny_service(tokenizer, **given), run=run_server, slots=SLOTS)
