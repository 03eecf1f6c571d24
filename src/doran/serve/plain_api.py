"""The small endpoints: models, tokenize and detokenize, health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from doran.serve.errors import ApiError
from doran.serve.generation import Service
from doran.serve.options import check_model
from doran.serve.prompt import build_prompt
from doran.serve.schema import DetokenizeRequest, TokenizeRequest


def router(service: Service) -> APIRouter:
    """The endpoints, over this service."""
    routes = APIRouter()

    def card() -> dict[str, Any]:
        s = service.settings
        return {
            "price_per_million": {"input": s.price_input, "output": s.price_output},
            "id": service.settings.name,
            "object": "model",
            "created": service.started,
            "owned_by": "doran",
            "max_model_len": service.context,
        }

    @routes.get("/v1/models", tags=["OpenAI"])
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [card()]}

    @routes.get("/v1/models/{name}", tags=["OpenAI"])
    async def model(name: str) -> dict[str, Any]:
        """The same, by name."""
        check_model(service, name)
        return card()

    @routes.post("/tokenize", tags=["Tools"])
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        """The ids that a prompt or a conversation becomes."""
        check_model(service, body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give prompt or messages, one of them")
        if body.messages is not None:
            ids = build_prompt(service.tokenizer, [m.model_dump() for m in body.messages]).ids
        else:
            bos = [] if service.tokenizer.bos_id is None else [service.tokenizer.bos_id]
            ids = bos + service.tokenizer.encode(body.prompt or "")
        return {"tokens": ids, "count": len(ids), "max_model_len": service.context}

    @routes.post("/detokenize", tags=["Tools"])
    async def detokenize(body: DetokenizeRequest) -> dict[str, str]:
        """The text of ids."""
        check_model(service, body.model)
        return {"prompt": service.tokenizer.decode(body.tokens)}

    @routes.get("/health", tags=["Operation"])
    async def health() -> Response:
        """200 while requests are taken, 503 when not."""
        alive = service.worker.alive
        return JSONResponse({"status": "ok" if alive else "stopping"}, 200 if alive else 503)

    @routes.get("/metrics", tags=["Operation"])
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
