"""The web chat at `/`: the files of web/ as they are, with headers that let the page reach only this server.

No template, no state: the page (web/app.js) talks to /v1/chat/completions like any other client.
"""

from __future__ import annotations

import os

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # not even our own code may turn text into HTML
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again each time, so a newer server is not met by an older page
}


class Page(StaticFiles):
    """Static files with `HEADERS` on each."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file's answer."""
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        if os.path.splitext(path)[1] == ".js":  # some systems' tables say otherwise; `nosniff` refuses it then
            response.headers["Content-Type"] = "text/javascript; charset=utf-8"
        return response
