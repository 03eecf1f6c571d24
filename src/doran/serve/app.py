"""The whole application: endpoints over one service, the gate around them, the web page at `/` where there is one."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

import doran
from doran.serve import chat_api, completions_api, errors, messages_api, plain_api, responses_api
from doran.serve.generation import Service
from doran.serve.page import Page
from doran.serve.security import WEB, Gate
from doran.serve.sse import ClientGone

SWITCH_SECONDS = 0.0005  # so long the engine's thread, back from native code, waits for the event loop at most


def create_app(service: Service, keys: dict[str, str] | None = None) -> ASGIApp:
    """The ASGI application. Its lifespan starts the engine's thread and stops it, letting running requests finish."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        before = sys.getswitchinterval()
        gc.freeze()  # what is there now stays: the collector need not look at it
        sys.setswitchinterval(SWITCH_SECONDS)
        yield
        sys.setswitchinterval(before)
        gc.unfreeze()
        await asyncio.to_thread(service.worker.stop, service.settings.shutdown_seconds)

    app = FastAPI(
        title="doran",
        version=doran.__version__,
        description="Reasoning models over OpenAI's and Anthropic's APIs. A field is honoured or refused.",
        docs_url=None,  # FastAPI's pages load their scripts from another host
        redoc_url=None,
        lifespan=lifespan,
        dependencies=[Depends(errors.real_text)],
        responses={400: {"description": "refused: the message names the field"}, 429: {"description": "queue full"}},
    )
    errors.install(app)

    @app.exception_handler(ClientGone)
    async def nobody(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)

    for module in (chat_api, completions_api, responses_api, messages_api, plain_api):
        app.include_router(module.router(service))
    if (WEB / "index.html").exists():
        app.mount("/", Page(directory=WEB, html=True), name="web")
    whole: ASGIApp = app
    if service.settings.cors_origins:
        whole = CORSMiddleware(
            app, allow_origins=list(service.settings.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    return Gate(whole, service, keys or {})
