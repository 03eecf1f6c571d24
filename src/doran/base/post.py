"""One HTTP POST of JSON, with a key where there is one. What an answer or a failure means is the caller's business."""

from __future__ import annotations

import json
import urllib.request
from typing import Any


def post(url: str, body: dict[str, Any], key: str | None, timeout: float, most: int | None = None) -> bytes:
    """The answer's body, at most `most` bytes of it. Raises what urllib and http.client raise."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=timeout) as reply:
        found: bytes = reply.read(most)  # without a number a cut answer is an error (http.client.IncompleteRead)
    return found
