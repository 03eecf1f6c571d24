"""Speculation for one stream: several drafted tokens checked in one forward; the output is what it would be without.

Drafts come from the text so far (`NGramDraft`, prompt lookup) or from the model's MTP module (`MTPDraft`, DeepSeek-V3
s2.2). A draft is one token, not a distribution, so the rejection rule (Leviathan 2211.17192: accept x with probability
min(1, p(x)/q(x)), else draw from the rest) has q(x) = 1. It is kept by drawing from p as always, with the very uniform
that the position has without speculation, and going on where the drawn token is the drafted one: x is accepted with
probability p(x), another token comes with its own. So it is no other sample of the same distribution but the same
sample, up to rounding, as everywhere where batch shapes differ.

This is the reference, on the model's own modules: it proves the rule and counts acceptance. It is not fast: a forward
behind a past expands all latents. Legend: T tokens fed, A of them kept, D hidden_size, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from doran.base.errors import NumericsError, OutOfMemory, UsageError
from doran.base.rng import numpy_rng
from doran.engine.engine import Engine
from doran.engine.request import Completion, FinishReason, SamplingParams
from doran.engine.runner import Runner
from doran.engine.sampler import RowParams, sample
from doran.layers.attention import CacheAttend
from doran.layers.cache import KVCache, LatentCache, make_cache
from doran.models.decoder import Decoder

AnyCache = LatentCache | KVCache


@dataclass(frozen=True)
class Speculated:
    """A completion, and what the drafts were worth."""

    completion: Completion
    forwards: int  # of the model; without speculation there is one for each token
    drafted: int
    accepted: int

    @property
    def acceptance(self) -> float:
        """Share of the drafted tokens that were kept; those behind a wrong one count as drafted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_forward(self) -> float:
        """1 without speculation: the most that speculation could speed this up, were a wider forward free."""
        return len(self.completion.token_ids) / self.forwards


class Draft(Protocol):
    """Guesses what comes next. One instance serves one stream at a time."""

    def begin(self, model: Decoder, cache: AnyCache) -> None:
        """A new stream. `cache` has one slot, and a layer for the MTP module where there is one."""

    def observe(self, ids: Sequence[int], h_AD: Tensor) -> None:
        """The states of the A positions before the last of `ids` that are new since the last call."""

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens to follow `ids`; fewer or none where it has no idea."""


@dataclass
class NGramDraft:
    """What followed the last time the text's last few tokens stood there: `longest` of them, else fewer, at least
    `shortest`."""

    longest: int = 3
    shortest: int = 1

    def begin(self, model: Decoder, cache: AnyCache) -> None:
        """Nothing to prepare."""

    def observe(self, ids: Sequence[int], h_AD: Tensor) -> None:
        """States say nothing to it."""

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """The tokens behind the latest earlier place that ends alike."""
        ids = list(ids)
        for n in range(min(self.longest, len(ids) - 1), self.shortest - 1, -1):
            for end in range(len(ids) - 1, n - 1, -1):
                if ids[end - n : end] == ids[-n:]:
                    return ids[end : end + most]
        return []


@dataclass
class MTPDraft:
    """MTP module 0, greedily; for more than one token it goes on from its own state, as V3's did in inference."""

    _state_1D: Tensor | None = field(default=None, repr=False)

    def begin(self, model: Decoder, cache: AnyCache) -> None:
        """UsageError for a model without MTP module."""
        if not model.has_mtp:
            raise UsageError("the model has no MTP module", hint="use n-gram drafts, or train with mtp_lambda > 0")
        self._model, self._cache, self._state_1D = model, cache, None

    def observe(self, ids: Sequence[int], h_AD: Tensor) -> None:
        """Feed each new state with the token that followed it; the last one's output guesses the next token."""
        self._state_1D = self._feed(h_AD, ids[-len(h_AD) :], len(ids) - 1 - len(h_AD))[-1:]

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """The likeliest continuation. What it writes into the cache here is overwritten by the next `observe`."""
        state_1D, drafts = self._state_1D, list[int]()
        while state_1D is not None and len(drafts) < most:
            if drafts:
                state_1D = self._feed(state_1D, drafts[-1:], len(ids) - 2 + len(drafts))
            drafts.append(int(self._model.logits(state_1D).argmax()))
        return drafts

    def _feed(self, h_TD: Tensor, next_tokens: Sequence[int], first: int) -> Tensor:
        attend = CacheAttend.prefill(self._cache, [0], [0, len(h_TD)], [first])
        return self._model.mtp(h_TD, torch.tensor(next_tokens), torch.arange(first, first + len(h_TD)), attend)


@torch.inference_mode()
def speculate(
    engine: Engine, prompt_ids: Sequence[int], params: SamplingParams, draft: Draft, width: int = 4
) -> Speculated:
    """The completion that `engine.generate([prompt_ids], params)` gives, with at most `width` drafted tokens a forward.

    Errors: as generate's; UsageError for a width below 1 or a draft that the model cannot serve.
    """
    if width < 1:
        raise UsageError(f"width is {width}", hint="draft 1 token or more")
    ids = list(engine.checked("the prompt", prompt_ids))
    budget = engine.within_context(ids, params).max_new_tokens
    model, cache = _open(engine, len(ids) + budget - 1)
    draft.begin(model, cache)
    uniforms = torch.from_numpy(numpy_rng("sample", params.seed, 0).random(budget))
    start, cached, forwards, drafted, accepted = len(ids), 0, 0, 0, 0
    logprobs: list[float] = []
    ended = False
    while not ended:
        guesses = draft.propose(ids, min(width, budget - len(logprobs) - 1))
        fed = [*ids[cached:], *guesses]
        positions_T = torch.arange(cached, cached + len(fed))
        h_TD = model(torch.tensor(fed), positions_T, CacheAttend.prefill(cache, [0], [0, len(fed)], [cached]))
        tokens, scores = _draw(model.logits(h_TD[-len(guesses) - 1 :]), params, uniforms[len(logprobs) :])
        known = len(ids) - cached  # of those fed, not guessed
        kept = 0
        for at, token in enumerate(tokens):
            ids.append(token)
            ended = token in params.stop_token_ids or len(ids) - start == budget
            right = at < len(guesses) and guesses[at] == token
            kept += right
            if ended or not right:
                break
        logprobs += scores[: len(ids) - start - len(logprobs)]
        forwards, drafted, accepted = forwards + 1, drafted + len(guesses), accepted + kept
        if not ended:
            draft.observe(ids, h_TD[: known + kept])
        cached = len(ids) - 1
    if any(p != p for p in logprobs):
        raise NumericsError("the model's logits are not numbers (NaN)", hint="check the weights, or use float32")
    reason: FinishReason = "stop" if ids[-1] in params.stop_token_ids else "length"
    return Speculated(Completion(ids[start:], logprobs, reason), forwards, drafted, accepted)


def _open(engine: Engine, length: int) -> tuple[Decoder, AnyCache]:
    """The model in the engine's compute dtype and a cache of one slot. OutOfMemory where that is too large."""
    runner = Runner(engine.model, engine.cache_dtype, engine.compute_dtype, engine.cache_budget())
    if not runner.fits(1, length):
        raise OutOfMemory(
            f"the cache of one sequence of {length} tokens exceeds the memory budget",
            hint="lower max_new_tokens, shorten the prompt or give the engine more cache_bytes",
        )
    config = runner.model.config
    layers = config.num_hidden_layers + min(config.num_nextn_predict_layers, 1)
    return runner.model, make_cache(replace(config, num_hidden_layers=layers), 1, length, runner.cache_dtype)


def _draw(logits_NV: Tensor, params: SamplingParams, uniform_N: Tensor) -> tuple[list[int], list[float]]:
    """A token and its logprob for each row, each with the uniform of its own position."""
    n = len(logits_NV)
    tokens_N, logprobs_N = sample(logits_NV, RowParams.of([params] * n), uniform_N[:n])
    return tokens_N.tolist(), logprobs_N.tolist()
