"""What goes wrong on the way of a request, as HTTP answers in the form its API's clients expect."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from doran.base.errors import DoranError, NumericsError, OutOfMemory, UsageError
from doran.serve.worker import QueueFull, Stopping

KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip
STATUS: tuple[tuple[type[Exception], int], ...] = (
    (QueueFull, 429), (Stopping, 503), (UsageError, 400), (OutOfMemory, 400), (NumericsError, 500), (DoranError, 500),
)  # fmt: skip


class ApiError(DoranError):
    """A refusal with its HTTP status and the field that caused it."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


def status_of(error: BaseException) -> int:
    """The HTTP status for an exception."""
    if isinstance(error, ApiError):
        return error.status
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def body_of(error: BaseException, path: str = "") -> dict[str, Any]:
    """The error object, Anthropic's for /v1/messages, else OpenAI's. Nothing of the inside for our own mistakes."""
    status = status_of(error)
    message = clean(str(error)) if isinstance(error, DoranError) else "the server failed on this request"
    kind = KINDS.get(status, "api_error")
    if path.startswith("/v1/messages"):
        return {"type": "error", "error": {"type": kind, "message": message}}
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def answer(error: BaseException, path: str) -> JSONResponse:
    """The whole HTTP answer."""
    status = status_of(error)
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse(body_of(error, path), status, headers)


def clean(text: str) -> str:
    """Text that can be sent as UTF-8, whatever a client put into it."""
    return text.encode("utf-8", "replace").decode("utf-8")


async def real_text(request: Request) -> None:
    """400 for half characters (a lone surrogate in an escape), which no tokenizer can read."""
    body = await request.body()
    if b"\\u" not in body:
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ApiError(400, "the body has half a character: a surrogate without its pair") from None
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None


def in_words(error: RequestValidationError) -> ApiError:
    """The first thing wrong with a request's body, with the field's name."""
    first = error.errors()[0]
    where = ".".join(clean(str(part)) for part in first["loc"] if part != "body")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unknown or unsupported field {where!r}; leave it out", where, "unknown_parameter")
    message = clean(str(first["msg"]))
    return ApiError(400, f"{where}: {message}" if where else f"the body: {message}", where or None)


def install(app: FastAPI) -> None:
    """Answer every exception in the API's own form."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(in_words(error), request.url.path)

    @app.exception_handler(DoranError)
    async def refused(request: Request, error: DoranError) -> JSONResponse:
        return answer(error, request.url.path)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        shown = answer(ApiError(error.status_code, str(error.detail)), request.url.path)
        shown.headers.update(error.headers or {})
        return shown

    @app.exception_handler(Exception)
    async def our_own(request: Request, error: Exception) -> JSONResponse:
        return answer(error, request.url.path)

    @app.exception_handler(ModuleNotFoundError)
    async def missing(request: Request, error: ModuleNotFoundError) -> JSONResponse:
        return answer(ApiError(400, f"this server lacks the package {error.name}"), request.url.path)
