"""The engine's face: generate, stream, stats. Checks what users pass in; scheduler, runner and slots do the work.

All state of a call (queues, cache, slots) lives in that call's `_Call` and dies with it, so a call that raises, or a
stream that is closed half-way, leaves nothing behind, and two streams may be open at once.

Determinism: a completion depends on its prompt, its params and its number j, not on its neighbours, up to rounding:
matrix products of different batch shapes may differ in the last bits, so a draw that falls within that distance of a
CDF edge (of the order of 1e-6 in float32, 1e-2 in bfloat16) can still come out differently. The same call repeated on
the same machine with the same number of threads is bit-exact.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from doran.base.device import available_memory
from doran.base.errors import UsageError
from doran.engine.live import Live
from doran.engine.native_runner import Arena, NativeRunner
from doran.engine.request import PLAIN, Completion, Request, SamplingParams, Speculation, token_ids
from doran.engine.runner import Runner, make_runner, reserve
from doran.engine.scheduler import Group, Scheduler
from doran.engine.slots import Slots
from doran.models.decoder import Decoder

STEPS = 64  # decode steps between two looks at Python, where nobody ends: an interrupt waits no longer than that
OnFinish = Callable[[int, Completion], None]


@dataclass
class EngineStats:
    """Totals since the engine was made or `reset`. Seconds are wall clock, sampling included."""

    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0  # one per running request and decode step, and the drafts that were right
    decode_seconds: float = 0.0
    decode_steps: int = 0
    draft_tokens: int = 0  # guessed where the engine speculates
    accepted_tokens: int = 0  # and right

    def decoded(self, steps: int, requests: int, drafted: int = 0, accepted: int = 0) -> None:
        """Count decode steps of so many requests."""
        self.decode_steps += steps
        self.decode_tokens += steps * requests + accepted
        self.draft_tokens += drafted
        self.accepted_tokens += accepted

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]


class Engine:
    """Batched sampling on a model whose weights it shares with whoever else holds it: training steps between are seen.

    max_batch       most requests decoded together
    cache_dtype     of the cached keys and values (or latents); None: the compute dtype
    compute_dtype   None: the model's own, and no copy; else each call works on a copy of the weights in this dtype
    cache_bytes     memory for the cache; None: half of what is free when a call starts. Requests wait until theirs fits
    speculation     whether and how it guesses ahead: the same tokens in fewer steps (by the native runner only)
    """

    def __init__(
        self,
        model: Decoder,
        max_batch: int = 256,
        cache_dtype: torch.dtype | None = None,
        compute_dtype: torch.dtype | None = None,
        cache_bytes: int | None = None,
        speculation: Speculation = PLAIN,
    ) -> None:
        if max_batch < 1:
            raise UsageError(f"max_batch is {max_batch}", hint="use 1 or more")
        if speculation.drafts == "mtp" and not model.has_mtp:
            raise UsageError("the model has no MTP module", hint="use n-gram drafts, or train with mtp_lambda > 0")
        self.speculation = speculation
        self.model = model
        self.max_batch = max_batch
        self.cache_dtype = cache_dtype
        self.compute_dtype = compute_dtype
        self.cache_bytes = cache_bytes
        self.stats = EngineStats()
        self.arena = Arena()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams],
        n: int = 1,
        on_finish: OnFinish | None = None,
    ) -> list[list[Completion]]:
        """n completions of each prompt: result[i][j]. `params`: one for all prompts, or one each.

        `on_finish(i * n + j, completion)` is called as soon as completion j of prompt i ends, while others still run.
        Errors: UsageError (empty or too long prompt, id outside the vocabulary), OutOfMemory (one request alone exceeds
        cache_bytes), NumericsError (NaN logits).
        """
        requests = self._requests(prompts, params, n)
        if not requests:
            return [[] for _ in prompts]
        done: dict[int, Completion] = {}
        call = _Call(self, requests)
        while call.busy:
            for request, completion in call.step(STEPS):
                done[request.index] = completion
                if on_finish:
                    on_finish(request.index, completion)
        return [[done[i * n + j] for j in range(n)] for i in range(len(prompts))]

    def stream(self, prompt_ids: Sequence[int], params: SamplingParams) -> Iterator[tuple[int, float]]:
        """(token id, logprob) as they are sampled; the same ones as generate([prompt_ids], params)[0][0].

        Wrong input raises here, not at the first token. Close the iterator to stop early.
        """
        return self._stream(self._requests([prompt_ids], params, 1))

    def open(self, interval: float = 0.0) -> Live:
        """A session that takes and drops requests while others run, for servers (engine/live.py)."""
        return Live(self, interval)

    def _stream(self, requests: list[Request]) -> Iterator[tuple[int, float]]:
        call, seen = _Call(self, requests), 0
        while call.busy:
            finished = call.step()
            if finished:
                completion = finished[0][1]
                yield from zip(completion.token_ids[seen:], completion.logprobs[seen:], strict=True)
            else:
                new = call.slots.said(0, seen)
                seen += len(new)
                yield from new

    def _requests(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams], n: int
    ) -> list[Request]:
        if n < 1:
            raise UsageError(f"n is {n}", hint="use 1 or more completions per prompt")
        per_prompt = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if len(per_prompt) != len(prompts):
            raise UsageError(f"{len(prompts)} prompts but {len(per_prompt)} params", hint="give one, or one each")
        requests = []
        for i, (prompt, p) in enumerate(zip(prompts, per_prompt, strict=True)):
            ids = self.checked(f"prompt {i}", prompt)
            p = self.within_context(ids, p)
            requests += [Request(i * n + j, j, ids, p) for j in range(n)]
        return requests

    def within_context(self, ids: Sequence[int], params: SamplingParams) -> SamplingParams:
        """`params` with max_new_tokens cut to what the model's context leaves behind this prompt."""
        room = self.model.config.max_position_embeddings - len(ids) + 1  # the last new token takes no position
        return replace(params, max_new_tokens=room) if params.max_new_tokens > room else params

    def cache_budget(self) -> int:
        """Bytes that a cache made now may take."""
        return self.cache_bytes if self.cache_bytes is not None else available_memory() // 2

    def runner(self, slots: int, speculation: Speculation = PLAIN) -> Runner | NativeRunner:
        """A runner for at most `slots` requests together, its weights as they are now."""
        shared = self.cache_budget(), slots, self.arena, speculation
        return make_runner(self.model, self.cache_dtype, self.compute_dtype, *shared)

    def checked(self, name: str, prompt: Sequence[int]) -> tuple[int, ...]:
        """`prompt` as a tuple of ids that this model can read; UsageError naming `name` otherwise."""
        config = self.model.config
        ids = token_ids(name, prompt)
        if not ids:
            raise UsageError(f"{name} is empty", hint="start it with at least one token, e.g. the tokenizer's bos_id")
        if max(ids) >= config.vocab_size:
            raise UsageError(
                f"{name} has token id {max(ids)}, the model's vocabulary ends at {config.vocab_size - 1}",
                hint="encode it with the tokenizer in the model's folder",
            )
        if len(ids) > config.max_position_embeddings:
            raise UsageError(
                f"{name} has {len(ids)} tokens, max_position_embeddings is {config.max_position_embeddings}",
                hint="shorten the prompt",
            )
        return ids


class _Call:
    """One call's life: admit and prefill when there is room, else decode one token of everybody, then clear out."""

    def __init__(self, engine: Engine, requests: list[Request]) -> None:
        self.stats, slots = engine.stats, min(engine.max_batch, len(requests))
        self.runner = engine.runner(slots, engine.speculation)
        self.scheduler = Scheduler(requests, engine.max_batch, self.runner.fits)
        self.slots = Slots(requests, slots)

    @property
    def busy(self) -> bool:
        return self.scheduler.busy

    @torch.inference_mode()
    def step(self, most: int = 1) -> list[tuple[Request, Completion]]:
        """One prefill of newly admitted requests, or decode steps, at most `most`, until somebody ends; who ended."""
        started, first = time.perf_counter(), len(self.scheduler.running)
        groups = self.scheduler.admit()
        if groups:
            finished = self._clear(self._prefill(first, groups))
            self.stats.prefill_seconds += time.perf_counter() - started
        else:
            finished = self._clear(self._decode(first, most))
            self.stats.decode_seconds += time.perf_counter() - started
        return finished

    def _prefill(self, first: int, groups: list[Group]) -> list[int]:
        prompts = [g.prompt_ids for g in groups]
        cached = int(self.slots.lengths_S[:first].max()) if first else 0
        reserve(self.runner, self.scheduler.running, first, max(cached, *map(len, prompts)))
        logits_NV = self.runner.prefill(prompts, [len(g.requests) for g in groups], first)
        self.slots.place(first, self.scheduler.running[first:])
        self.stats.prefill_tokens += sum(map(len, prompts))
        return self.slots.advance(first, logits_NV)

    def _decode(self, count: int, most: int) -> list[int]:
        if isinstance(self.runner, NativeRunner):
            steps, ended = self.runner.run(self.slots, count, most)
            self.stats.decoded(steps, count, *self.runner.take_counts())
            return ended
        lengths_N = self.slots.lengths_S[:count]
        reserve(self.runner, self.scheduler.running, count, int(lengths_N.max()) + 1)
        logits_NV = self.runner.decode(self.slots.tokens_S[:count], lengths_N)
        lengths_N += 1
        self.stats.decoded(1, count)
        return self.slots.advance(0, logits_NV)

    def _clear(self, ended: list[int]) -> list[tuple[Request, Completion]]:
        """Collect what has ended and close the gaps."""
        finished = [(self.scheduler.running[s], self.slots.completion(s)) for s in ended]
        moves = self.scheduler.finish(ended)
        self.slots.apply(moves)
        for move in moves:
            self.runner.cache.move(move.src, move.dst)
        return finished
