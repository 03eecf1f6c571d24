"""Counts and times for Prometheus, in a registry of the server's own. Nothing of what was said."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from doran.layers.expert_cache import ExpertCache
    from doran.serve.generation import Done, Generation
    from doran.serve.worker import Worker

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """What /metrics shows."""

    def __init__(self, worker: Worker) -> None:
        self.registry = r = CollectorRegistry()
        self.requests = Counter("doran_requests", "HTTP answers", ["path", "status"], registry=r)
        self.endings = Counter("doran_completions", "Completions by how they ended", ["reason"], registry=r)
        self.prompt = Counter("doran_prompt_tokens", "Prompt tokens of completions that ended", registry=r)
        self.tokens = Counter("doran_generated_tokens", "New tokens, thoughts included", registry=r)
        self.reasoning = Counter("doran_reasoning_tokens", "New tokens inside thoughts", registry=r)
        self.first = Histogram("doran_first_token_seconds", "To the first piece", buckets=SECONDS, registry=r)
        self.whole = Histogram("doran_completion_seconds", "To the end", buckets=SECONDS, registry=r)
        Gauge("doran_free_slots", "Slots without a request", registry=r).set_function(lambda: worker.free_slots)
        if worker.free_blocks is not None:
            blocks = Gauge("doran_free_blocks", "Cache blocks without a request", registry=r)
            blocks.set_function(lambda: worker.free_blocks or 0)
        Gauge("doran_running", "Requests that hold a slot", registry=r).set_function(lambda: worker.num_running)
        Gauge("doran_pending", "Requests that run or wait", registry=r).set_function(lambda: worker.pending)
        if worker.engine.model.expert_cache is not None:
            self._experts(worker.engine.model.expert_cache)

    def _experts(self, cache: ExpertCache) -> None:
        """Visits of experts that stay on disk, and what was read for them, by work (prefill, decode)."""
        r = self.registry
        visits = Gauge("doran_expert_visits", "Experts wanted, by where they were", ["work", "found"], registry=r)
        read = Gauge("doran_expert_bytes_read", "Read from disk", ["work"], registry=r)
        for work, counts in cache.work.items():
            visits.labels(work, "held").set_function(partial(getattr, counts, "hits"))
            visits.labels(work, "ahead").set_function(partial(getattr, counts, "early"))
            visits.labels(work, "disk").set_function(partial(getattr, counts, "misses"))
            read.labels(work).set_function(partial(getattr, counts, "bytes_read"))

    def finished(self, generation: Generation, done: Done) -> None:
        """Note one completion."""
        self.endings.labels(done.ending).inc()
        self.prompt.inc(len(generation.job.prompt_ids))
        self.tokens.inc(done.tokens)
        self.reasoning.inc(done.reasoning_tokens)
        if generation.first_token is not None:
            self.first.observe(generation.first_token - generation.started)
        self.whole.observe(time.perf_counter() - generation.started)

    def page(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)
