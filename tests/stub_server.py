"""A server on the loopback that takes POSTs of JSON and answers what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def server(answer, cut: int = 0) -> Iterator[tuple[str, list]]:
    """(URL, what was asked: path, body, key). `answer(body, number of the request)`: (HTTP code, JSON or bytes)."""
    seen: list = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body, self.headers.get("Authorization")))
            code, value = answer(body, len(seen))
            payload = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(code)
            promised = len(payload) + (9 if len(seen) <= cut else 0)  # the first `cut` answers break off
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *args) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}", seen
    finally:
        made.shutdown()
        made.server_close()
