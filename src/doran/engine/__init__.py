"""The batched engine: request, sampler, scheduler, slots, runner, and `Engine` in front of them."""

from doran.engine.engine import Engine, EngineStats
from doran.engine.request import Completion, Request, SamplingParams

__all__ = ["Completion", "Engine", "EngineStats", "Request", "SamplingParams"]
