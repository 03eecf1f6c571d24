"""Rollouts from a server of vLLM or SGLang: ids out, ids and logprobs back, new weights between steps.

`RemoteEngine` has the part of the engine's face that RL uses (`generate`, `model`), so a sampler takes either. Ids,
never text, go both ways: what is learnt is what was sampled. For new weights the trainer writes the folder that the
server was started on, then asks it to read it again; both must see that folder. What each server wants to hear and
answers is in `SERVERS`. Not here: starting a server, or spreading over several.
"""

from __future__ import annotations

import json
import os
import urllib.error
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doran.base.errors import DoranError, UsageError, suggest
from doran.base.post import post
from doran.engine.request import Completion, SamplingParams
from doran.models.decoder import Decoder
from doran.models.weights import save_model

PATIENCE = 3600.0  # seconds for one answer: a long completion, or a large model read from disk

Body = dict[str, Any]
Said = tuple[list[int], list[float], str]
"""Ids, logprobs, finish reason."""


class RemoteError(DoranError):
    """A server that cannot be reached, refuses, or answers without ids and logprobs."""


@dataclass(frozen=True)
class Server:
    """How to talk with one kind: where and what to ask for a completion, what the answer means, how to reload."""

    path: str
    ask: Callable[[str, Sequence[int], SamplingParams, int], Body]  # (served name, prompt, params, seed)
    hear: Callable[[Any], Said]
    reload: tuple[tuple[str, Body], ...]  # what to post, in order, when {folder} holds new weights
    needs: str


def _ask_vllm(served: str, prompt: Sequence[int], p: SamplingParams, seed: int) -> Body:
    return {
        "model": served, "prompt": list(prompt), "max_tokens": p.max_new_tokens, "temperature": p.temperature,
        "top_p": p.top_p, "seed": seed, "logprobs": 0, "return_token_ids": True, "skip_special_tokens": False,
        "stop_token_ids": list(p.stop_token_ids), **_rarer(p),
    }  # fmt: skip


def _hear_vllm(answer: Any) -> Said:
    choice = answer["choices"][0]
    return choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["finish_reason"]


def _ask_sglang(served: str, prompt: Sequence[int], p: SamplingParams, seed: int) -> Body:
    sampling = {
        "max_new_tokens": p.max_new_tokens, "temperature": p.temperature, "top_p": p.top_p, "sampling_seed": seed,
        "stop_token_ids": list(p.stop_token_ids), "skip_special_tokens": False, **_rarer(p),
    }  # fmt: skip
    return {"input_ids": list(prompt), "sampling_params": sampling, "return_logprob": True}


def _hear_sglang(answer: Any) -> Said:
    told = answer["meta_info"]
    return (
        [entry[1] for entry in told["output_token_logprobs"]],
        [entry[0] for entry in told["output_token_logprobs"]],
        told["finish_reason"]["type"],
    )


def _rarer(p: SamplingParams) -> Body:
    return {name: value for name, value in (("top_k", p.top_k), ("min_p", p.min_p)) if value}


SERVERS = {
    "vllm": Server(
        "/v1/completions", _ask_vllm, _hear_vllm,
        (("/collective_rpc", {"method": "reload_weights"}), ("/reset_prefix_cache", {})),
        "vLLM 0.10.2 or newer, started with VLLM_SERVER_DEV_MODE=1",
    ),
    "sglang": Server(
        "/generate", _ask_sglang, _hear_sglang,
        (("/update_weights_from_disk", {"model_path": "{folder}"}),), "an SGLang server",
    ),
}  # fmt: skip


@dataclass
class RemoteEngine:
    """`model`: the policy, for its window and its weights; `url`: the server's, `served`: the model's name there.

    `folder`: where new weights are written, the one the server was started on. `parallel`: requests under way at once.
    """

    model: Decoder
    url: str
    served: str
    folder: Path
    server: str = "vllm"
    parallel: int = 64

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"{self.url}: not an address", hint="write it as http://127.0.0.1:8000")
        if self.server not in SERVERS:
            raise UsageError(f"no kind of server is called {self.server!r}", hint=suggest(self.server, SERVERS))
        self.url = self.url.rstrip("/").removesuffix("/v1")

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams], n: int = 1
    ) -> list[list[Completion]]:
        """n completions of each prompt. Completion j has seed params.seed + j; servers draw in ways of their own, so
        only the same server gives the same ones again. RemoteError for what is no answer."""
        per_prompt = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        asked = [(prompt, p, j) for prompt, p in zip(prompts, per_prompt, strict=True) for j in range(n)]
        with ThreadPoolExecutor(self.parallel) as pool:
            made = list(pool.map(lambda one: self._complete(*one), asked))
        return [made[i * n : (i + 1) * n] for i in range(len(prompts))]

    def update(self) -> None:
        """Give the server the policy's weights as they are now."""
        save_model(self.model, self.folder)
        for path, body in SERVERS[self.server].reload:
            self._post(path, {key: value.replace("{folder}", str(self.folder)) for key, value in body.items()})

    def _complete(self, prompt: Sequence[int], params: SamplingParams, j: int) -> Completion:
        kind = SERVERS[self.server]
        answer = self._post(kind.path, kind.ask(self.served, prompt, params, (params.seed + j) % 2**31))
        try:
            ids, logprobs, reason = kind.hear(answer)
            if not ids or len(ids) != len(logprobs) or reason not in ("stop", "length"):
                raise ValueError
        except (KeyError, IndexError, TypeError, ValueError):
            raise RemoteError(
                f"{self.url} answered without ids and logprobs of what it sampled: {json.dumps(answer)[:120]}",
                hint=f"rollouts need {kind.needs}",
            ) from None
        return Completion(list(ids), list(logprobs), "stop" if reason == "stop" else "length")

    def _post(self, path: str, body: Body) -> Any:
        try:
            text = post(self.url + path, body, os.environ.get("OPENAI_API_KEY"), PATIENCE)
            return json.loads(text) if text.strip() else {}
        except urllib.error.HTTPError as error:
            said = error.read().decode("utf-8", "replace")[:200]
            raise RemoteError(
                f"{self.url}{path} refused with {error.code}: {said}", hint=f"it must be {SERVERS[self.server].needs}"
            ) from None
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", error)
            raise RemoteError(f"{self.url}{path}: no answer ({why})", hint="is the server running?") from None
