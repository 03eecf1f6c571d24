"""What `doran serve` can be told. Plain settings, no behaviour."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from doran.base.config import StrictModel

Reasoning = Literal["both", "reasoning_content", "reasoning"]


class ServeSettings(StrictModel):
    """Limits, defaults and manners of a server.

    Seconds are wall clock. Prices are per million tokens; without them, budgets in money are refused.
    """

    name: str = "doran"
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    reasoning_field: Reasoning = "both"
    max_queue: int = Field(256, ge=0)
    max_body_bytes: int = Field(4 * 2**20, ge=1024)
    max_n: int = Field(64, ge=1)
    max_tokens_default: int = Field(4096, ge=1)
    temperature: float = Field(0.6, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    stream_interval: float = Field(0.03, ge=0, description="Least seconds between two events of a stream.")
    request_seconds: float = Field(600.0, gt=0)
    shutdown_seconds: float = Field(20.0, ge=0)
    loop_guard: bool = True
    log_prompts: bool = False
    cors_origins: tuple[str, ...] = ()
    price_input: float | None = Field(None, ge=0)
    price_output: float | None = Field(None, ge=0)
