"""Asking an OpenAI-compatible server: `POST /v1/chat/completions`, one request a completion, several at once.

The server's own chat template wraps the question. `reasoning_content` (or `reasoning`) is put back between think tags,
so that scorers see what they see of doran's own models. A key is read from an environment variable (OPENAI_API_KEY
unless told) where it is set. Stop strings are never sent, since a server would obey them inside a thought too; they are
applied here. Whether the same seed gives the same reply is the server's business.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from doran.base.errors import DoranError, UsageError
from doran.base.post import post
from doran.base.rng import seed_for
from doran.evals.samples import Asked, Reply, cut_at_stop
from doran.text.parse import CLOSE, OPEN

RETRIES = 4
PATIENCE = 600.0  # seconds for one reply
LONGEST_PAUSE = 120.0  # seconds that a server may ask us to wait


class EndpointError(DoranError):
    """A server that cannot be reached, refuses, or answers something else. `code`: HTTP's, where it refused."""

    code: int | None = None


class EndpointSampler:
    """`parallel` questions at a time; a question is kept when all of its k replies are there."""

    independent = True

    def __init__(
        self, url: str, model: str, params: Any, *, stops: Sequence[str] = (), parallel: int = 8,
        on_finish: Callable[[], None] | None = None, wait: float = 1.0, key_env: str = "OPENAI_API_KEY",
    ) -> None:  # fmt: skip
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--endpoint {url}: not an address", hint="write it as http://127.0.0.1:8000")
        base = url.rstrip("/")
        self.url = (base if base.endswith("/v1") else base + "/v1") + "/chat/completions"
        self.model, self.params, self.stops, self.parallel = model, params, tuple(stops), parallel
        self.on_finish, self.wait, self.key_env = on_finish, wait, key_env

    def chunks(self, items: Sequence[Any], k: int) -> list[range]:
        """All of them: nothing here depends on its neighbours."""
        return [range(len(items))]

    def ask(self, items: Sequence[Any], k: int) -> Iterator[tuple[int, Asked]]:
        """The replies to `items`, each question as soon as it is complete."""
        began = time.perf_counter()
        with ThreadPoolExecutor(self.parallel) as pool:
            waiting = {pool.submit(self._question, item, k): index for index, item in enumerate(items)}
            last = began
            try:
                for future in as_completed(waiting):
                    replies, prompt_tokens = future.result()
                    now = time.perf_counter()
                    yield waiting[future], Asked(replies, prompt_tokens, now - last)
                    last = now
            finally:
                pool.shutdown(cancel_futures=True)

    def _question(self, item: Any, k: int) -> tuple[list[Reply], int]:
        answers = []
        for j in range(k):
            answers.append(self.completion(item, j))
            if self.on_finish:
                self.on_finish()
        return [reply for reply, _ in answers], answers[0][1]

    def completion(self, item: Any, j: int) -> tuple[Reply, int]:
        """(reply j to one question, its prompt's tokens). EndpointError after the retries."""
        params = self.params
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": item.prompt}],
            "max_tokens": params.max_new_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "seed": seed_for("eval", params.seed, item.key, item.language, j) % 2**31,
        }
        answer = self._post(body)
        try:
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            text, reason = spoken(choice["message"]), choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise EndpointError(
                f"{self.url} answered something that is no chat completion: {json.dumps(answer)[:120]}",
                hint="is this an OpenAI-compatible server?",
            ) from None
        text, stopped = cut_at_stop(text, self.stops)
        tokens = int(usage.get("completion_tokens") or 0)
        return Reply(text, tokens, reason == "length" and not stopped), int(usage.get("prompt_tokens") or 0)

    def _post(self, body: dict[str, Any]) -> Any:
        """The server's JSON. A busy or restarting server is asked again, four times, waiting longer each time, or as
        long as it says."""
        for attempt in range(RETRIES + 1):
            pause = self.wait * 2**attempt
            try:
                return json.loads(post(self.url, body, os.environ.get(self.key_env), PATIENCE))
            except urllib.error.HTTPError as error:
                if (error.code != 429 and error.code < 500) or attempt == RETRIES:
                    said = error.read().decode("utf-8", "replace")[:200]
                    refusal = EndpointError(
                        f"{self.url} refused with {error.code}: {said}", hint="check the model's name and its limits"
                    )
                    refusal.code = error.code
                    raise refusal from None
                pause = max(pause, asked_pause(error))
            except json.JSONDecodeError:
                raise EndpointError(
                    f"{self.url} did not answer JSON", hint="is this an OpenAI-compatible server?"
                ) from None
            except (OSError, http.client.HTTPException) as error:  # the latter: cut off in the middle of an answer
                if attempt == RETRIES:
                    why = getattr(error, "reason", error)
                    raise EndpointError(
                        f"{self.url} cannot be reached ({why})", hint="is the server running?"
                    ) from None
            time.sleep(pause)
        raise AssertionError("unreachable")


def asked_pause(error: urllib.error.HTTPError) -> float:
    """Seconds of a Retry-After header, at most LONGEST_PAUSE; 0 where there is none."""
    told = error.headers.get("Retry-After", "") if error.headers else ""
    return min(float(told), LONGEST_PAUSE) if told.strip().isdecimal() else 0.0


def spoken(message: dict[str, Any]) -> str:
    """Thought and answer as one text with tags."""
    thought = message.get("reasoning_content") or message.get("reasoning")
    content = message.get("content") or ""
    return f"{OPEN}{thought}{CLOSE if content else ''}{content}" if thought else content
