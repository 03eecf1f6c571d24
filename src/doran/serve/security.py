"""Who may ask, and how much: API keys, hosts, body sizes; and one log line for each answer.

Keys are 256 random bits; only their SHA-256 is kept (such keys cannot be guessed, so a slow hash would add nothing),
and they are compared in constant time. A web page in a browser on this machine is kept out as well: a server without
keys answers only under names of the loopback, and takes JSON only, which no page can send without CORS.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doran.base.errors import DataError, UsageError
from doran.base.files import write_atomic
from doran.serve.errors import ApiError, answer
from doran.serve.generation import Service

LOOPBACK = ("127.0.0.1", "localhost", "::1")
WEB = Path(__file__).parent / "web"  # the page at `/`; its files hold nothing that a key protects
log = logging.getLogger("doran.serve")


def new_key(path: Path, name: str) -> str:
    """A new key, whose hash is added to the file as `name:sha256`. The key itself is nowhere kept."""
    if not name or ":" in name or name != name.strip():
        raise UsageError(f"--new-key: {name!r} is no name for a key", hint="use letters and digits")
    key = f"sk-doran-{secrets.token_urlsafe(32)}"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    write_atomic(path, before + f"{name}:{_hash(key)}\n")
    return key


def read_keys(path: Path) -> dict[str, str]:
    """{sha256: name}. DataError names the line that is not `name:sha256`."""
    if not path.exists():
        raise DataError(f"{path}: no such file", hint="make a key: doran serve --keys FILE --new-key NAME")
    keys = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, _, digest = line.rpartition(":")
        if line.strip() and (not name or len(digest) != 64):
            raise DataError(f"{path}:{number}: not name:sha256", hint="make keys with --new-key")
        if line.strip():
            keys[digest] = name
    return keys


def check_bind(host: str, keys: Sequence[str]) -> None:
    """UsageError where a server that anyone can reach would ask nobody for a key."""
    if host not in LOOPBACK and not keys:
        raise UsageError(
            f"--host {host}: others could reach the server, and it has no keys",
            hint="make one with --keys FILE --new-key NAME, or stay on 127.0.0.1",
        )


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, service: Service, keys: dict[str, str]) -> None:
        self.app, self.service, self.keys = app, service, keys
        self.open = {"/", "/health"} | {f"/{f.relative_to(WEB)}" for f in WEB.rglob("*") if f.is_file()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on with a counted body; log and count the answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, caller = time.perf_counter(), [0], ""
        body = _Body(receive, self.service.settings.max_body_bytes)

        async def noting(message: Message) -> None:
            if body.too_large and status[0] == 0:
                return  # the application calls it a bad request; the true answer comes below
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            caller = self._check(scope)
            await self.app(scope, body, noting)
            if body.too_large and status[0] == 0:
                body.too_large = False
                raise self._too_large()
        except ApiError as error:
            if status[0] == 0:
                await answer(error, scope["path"])(scope, receive, noting)
        except Exception as error:  # answered inside already, as a rule
            log.exception("a request failed")
            if status[0] == 0:
                await answer(error, scope["path"])(scope, receive, noting)
        finally:
            self._note(scope, status[0], caller, time.perf_counter() - started)

    def _check(self, scope: Scope) -> str:
        """The caller's name. ApiError where this request goes no further."""
        headers, path, caller = Headers(scope=scope), scope["path"], ""
        if not self.keys:
            host = re.sub(r":\d*$", "", headers.get("host", "")).strip("[]")
            if host not in (*LOOPBACK, self.service.settings.host):
                raise ApiError(403, f"this server does not answer as {host!r}")
        elif path not in self.open:
            found = self._caller(headers)
            if found is None:
                raise ApiError(401, "no valid API key", code="invalid_api_key")
            caller = found
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.service.settings.max_body_bytes:
            raise self._too_large()
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            raise ApiError(415, "send JSON, with content-type application/json")
        return caller

    def _caller(self, headers: Headers) -> str | None:
        given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        digest, found = _hash(given.strip()), None
        for known, name in self.keys.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self.service.settings.max_body_bytes} bytes")

    def _note(self, scope: Scope, status: int, caller: str, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", "other")  # the pattern: a label must not be a client's words
        self.service.metrics.requests.labels(path, str(status)).inc()
        line = {"method": scope["method"], "path": scope["path"], "status": status, "seconds": round(seconds, 4)}
        log.info(json.dumps({**line, "key": caller} if caller else line))


class _Body:
    """A request's body, counted while it comes."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._left, self.too_large = receive, limit, False

    async def __call__(self) -> Message:
        """ASGI's receive. ValueError where there is more than may be."""
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.too_large = True
            raise ValueError("too large")
        return message
