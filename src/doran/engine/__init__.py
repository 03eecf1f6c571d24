"""The batched engine: request, sampler, scheduler, slots, runner, `Engine` in front; live sessions."""

from doran.engine.control import Bias, Controls, Penalties, StopStrings, Token
from doran.engine.engine import Engine, EngineStats
from doran.engine.live import Live
from doran.engine.request import Completion, Request, SamplingParams

__all__ = [
    "Bias", "Completion", "Controls", "Engine", "EngineStats", "Live", "Penalties", "Request", "SamplingParams",
    "StopStrings", "Token",
]  # fmt: skip
