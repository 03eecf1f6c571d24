"""What operation needs: keys, limits, a bounded queue, and slots that come back whatever clients do."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from doran.base.errors import DataError, UsageError
from doran.serve.security import check_bind, new_key, read_keys

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "안녕"}], "max_tokens": 200}


def request_bytes(body: bytes, path: str = "/v1/chat/completions") -> bytes:
    headers = ("Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}")
    return "\r\n".join((f"POST {path} HTTP/1.1", *headers, "", "")).encode() + body


def port_of(running: Any) -> int:
    return int(running.url.rsplit(":", 1)[1])


def test_streams_cut_at_random_give_their_slots_back(running: Any) -> None:
    rng = random.Random(1)
    for i in range(40):
        body = json.dumps({**CHAT, "stream": i % 3 > 0, "n": 1 + i % 3, "max_tokens": 400}).encode()
        whole = request_bytes(body)
        with socket.create_connection(("127.0.0.1", port_of(running))) as s:
            s.sendall(whole[: rng.randrange(len(whole))] if i % 4 == 0 else whole)
            if i % 4:
                s.settimeout(rng.random() * 0.05)
                try:
                    while s.recv(rng.randrange(1, 400)):
                        if rng.random() < 0.2:
                            break
                except TimeoutError:
                    pass
    assert running.settled()


def test_malformed_requests_are_4xx_and_leave_nothing(running: Any) -> None:
    rng, good = random.Random(2), json.dumps(CHAT, ensure_ascii=False).encode()
    with httpx.Client(base_url=running.url, headers={"content-type": "application/json"}) as web:
        bodies = [b"", b"[]", b"null", b'{"model":"tiny"}', b"\xff\xfe", b"[" * 50_000,
                  b'{"a":' * 5000 + b"1" + b"}" * 5000,
                  good.replace(b"200", b"NaN"), good.replace(b"200", b"1e999"), good.replace(b"200", b"9" * 5000),
                  good.replace(b"tiny", b"\\ud800"), good.replace("안녕".encode(), b"\\ud800"),
                  good[:-1] + b',"\\ud800":1}', good.replace(b"user", b"nobody")]  # fmt: skip
        for _ in range(150):
            broken = bytearray(good)
            for _ in range(rng.randrange(1, 4)):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            bodies.append(bytes(broken))
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/tokenize"):
            for body in bodies if "chat" in path else bodies[:14]:
                answer = web.post(path, content=body)
                assert answer.status_code < 500, (path, body[:200], answer.text)
                assert answer.status_code == 200 or "error" in answer.json()
    assert running.settled()


def test_other_hosts_and_other_content_are_refused(running: Any) -> None:
    with httpx.Client(base_url=running.url) as web:
        assert web.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
        assert web.post("/tokenize", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
        assert "access-control-allow-origin" not in web.get("/health", headers={"origin": "http://a.example"}).headers


@pytest.fixture(scope="module")
def guarded(serving: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    new_key(path, "first")
    key = new_key(path, "second")
    assert key not in path.read_text()
    service = serving.service(max_queue=2, max_body_bytes=2000, reasoning_field="reasoning")
    for running in serving.run(service, read_keys(path)):
        yield running, key


def test_keys_are_asked_for_and_either_header_will_do(guarded: tuple[Any, str]) -> None:
    running, key = guarded
    with httpx.Client(base_url=running.url) as web:
        for headers in ({}, {"authorization": "Bearer no"}, {"x-api-key": key[:-1]}):
            assert web.get("/v1/models", headers=headers).status_code == 401
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
            assert web.get("/v1/models", headers=headers).status_code == 200
        assert web.get("/health").status_code == 200 and web.get("/metrics").status_code == 401


def test_large_bodies_are_refused_declared_or_not(guarded: tuple[Any, str]) -> None:
    running, key = guarded
    headers = {"x-api-key": key, "content-type": "application/json"}
    with httpx.Client(base_url=running.url, headers=headers) as web:
        assert web.post("/tokenize", content=b" " * 3000).status_code == 413
        assert web.post("/tokenize", content=iter([b" " * 1500, b" " * 1500])).status_code == 413


def test_a_full_queue_is_429_with_retry_after_and_the_rest_is_served(guarded: Any, serving: Any) -> None:
    running, key = guarded

    async def many() -> list[Any]:
        async with httpx.AsyncClient(base_url=running.url, headers={"x-api-key": key}, timeout=60) as web:
            asked = [web.post("/v1/chat/completions", json=CHAT) for _ in range(serving.slots + 8)]
            return await asyncio.gather(*asked)

    answers = asyncio.run(many())
    refused = [a for a in answers if a.status_code == 429]
    assert {a.status_code for a in answers} <= {200, 429} and 0 < len(refused) <= 6
    assert all(a.headers["retry-after"] for a in refused)
    assert running.settled()


def test_shutting_down_lets_nobody_hang(serving: Any) -> None:
    got: list[Any] = []
    for running in serving.run(serving.service()):

        def ask() -> None:
            try:
                long = {**CHAT, "max_tokens": 900}
                got.append(httpx.post(f"{running.url}/v1/chat/completions", json=long, timeout=30))
            except httpx.HTTPError as error:
                got.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while running.service.worker.num_running < 4 and len(got) < 4:
            pass
    for thread in threads:
        thread.join(20)
    assert len(got) == 4
    assert running.service.worker.free_slots == serving.slots and running.service.worker.pending == 0


def test_keys_files_and_binding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_keys(tmp_path / "none")
    (tmp_path / "bad").write_text("hello\n")
    with pytest.raises(DataError, match="bad:1"):
        read_keys(tmp_path / "bad")
    with pytest.raises(UsageError):
        new_key(tmp_path / "k", "a:b")
    check_bind("127.0.0.1", [])
    check_bind("0.0.0.0", ["x"])
    with pytest.raises(UsageError, match="keys"):
        check_bind("0.0.0.0", [])
