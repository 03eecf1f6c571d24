"""A conversation with a model: what was said, how to sample, replies that stream as thought and answer. No terminal.

The model is asked anew with the whole conversation each turn. Earlier thoughts are not sent again, as R1 does it;
when the rest no longer fits, the oldest messages go first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from doran.base.files import write_atomic, write_json
from doran.base.rng import seed_for
from doran.text.detok import Detokenizer
from doran.text.parse import StreamSplitter, opens_thought

Kind = Literal["reasoning", "answer"]
USER_TURN = "\nUser:"  # where a base model starts to speak for the user, its answer is over


@dataclass
class Reply:
    """One reply as far as it has come. `seconds` and `tokens` of the thought end with the first word of the answer."""

    thought: str = ""
    answer: str = ""
    thought_tokens: int = 0
    thought_seconds: float = 0.0
    tokens: int = 0
    ended: Literal["stop", "length", "user"] = "user"  # "user" until the stream ends by itself


@dataclass
class Session:
    """A model and one conversation with it. `params`: the engine's SamplingParams; its seed is the conversation's."""

    engine: Any
    tokenizer: Any
    params: Any
    name: str = "model"
    clock: Callable[[], float] = time.perf_counter
    messages: list[dict[str, str]] = field(default_factory=list)
    last: Reply | None = None
    forgotten: int = 0  # messages dropped for room before the last reply

    def new(self) -> None:
        """Forget the conversation, not the settings."""
        self.messages, self.last, self.forgotten = [], None, 0

    def set(self, **changes: Any) -> None:
        """Change sampling settings; UsageError as SamplingParams raises it."""
        self.params = replace(self.params, **changes)

    def reply(self, text: str) -> Generator[tuple[Kind, str], None, None]:
        """Say `text`; yields pieces of thought and answer. Close it early to stop: what was said so far then counts.

        A turn without any answer leaves no trace in the conversation; `last` always tells what happened.
        """
        self.messages.append({"role": "user", "content": text})
        self.last = reply = Reply()
        try:
            ids = self._prompt_ids()
            yield from self._parts(reply, ids)
        finally:
            if reply.answer.strip():
                turn = {"role": "assistant", "content": reply.answer.strip(), "reasoning": reply.thought.strip()}
                self.messages.append(turn)
            else:
                self.messages.pop()

    def save(self, path: str | Path) -> None:
        """Write the conversation: Markdown where the name ends in .md, else JSON."""
        if Path(path).suffix == ".md":
            write_atomic(path, "".join(map(_as_markdown, self.messages)))
        else:
            settings = {"temperature": self.params.temperature, "seed": self.params.seed}
            write_json(path, {"model": self.name, **settings, "messages": self.messages})

    # ---- one reply ---------------------------------------------------------------------------------------------

    def _parts(self, reply: Reply, ids: list[int]) -> Iterator[tuple[Kind, str]]:
        detokenizer = Detokenizer(self.tokenizer)
        splitter = StreamSplitter(opened=opens_thought(self.tokenizer.decode(ids[-16:])))
        started = self.clock()
        pieces = self._pieces(reply, ids, detokenizer)
        for piece in pieces if self.tokenizer.chat_template is not None else until(USER_TURN, pieces):
            for kind, text in splitter.feed(piece):
                yield from self._record(reply, kind, text)
            if not reply.answer.strip():
                reply.thought_tokens, reply.thought_seconds = reply.tokens, self.clock() - started
        if reply.ended == "user":  # the pieces were cut at USER_TURN
            reply.ended = "stop"
        for kind, text in splitter.close():
            yield from self._record(reply, kind, text)

    def _pieces(self, reply: Reply, ids: list[int], detokenizer: Detokenizer) -> Iterator[str]:
        """Text as it becomes whole; sets `reply.ended` when the model is done."""
        turn = len(self.messages)
        params = replace(self.params, seed=seed_for("chat", self.params.seed, turn))
        stream = self.engine.stream(ids, params)
        try:
            for token_id, _ in stream:
                reply.tokens += 1
                if token_id in params.stop_token_ids:
                    reply.ended = "stop"
                    break
                yield detokenizer.feed(token_id)
            else:
                reply.ended = "length"
            yield detokenizer.close()
        finally:
            if hasattr(stream, "close"):
                stream.close()  # gives the cache back at once

    def _record(self, reply: Reply, kind: Kind, text: str) -> Iterator[tuple[Kind, str]]:
        if kind == "reasoning":
            reply.thought += text
        else:
            reply.answer += text
        yield kind, text

    # ---- the prompt --------------------------------------------------------------------------------------------

    def _prompt_ids(self) -> list[int]:
        """The conversation as ids, its oldest messages left out until a reply has room."""
        self.forgotten, room = 0, self._room()
        while len(ids := self._encode()) > room and len(self.messages) > 1:
            dropped = 2 if len(self.messages) > 2 else 1
            del self.messages[:dropped]
            self.forgotten += dropped
        return ids

    def _room(self) -> int:
        """Longest prompt that leaves space for a reply: the whole limit or half the context, whichever is less."""
        config = getattr(getattr(self.engine, "model", None), "config", None)
        context = getattr(config, "max_position_embeddings", 1 << 30)
        return int(context - min(self.params.max_new_tokens, context // 2))

    def _encode(self) -> list[int]:
        sent = [{"role": m["role"], "content": m["content"]} for m in self.messages]
        if self.tokenizer.chat_template is not None:
            return list(self.tokenizer.encode_chat(sent))
        names = {"user": "User", "assistant": "Assistant"}  # a base model's way: plain text
        text = "\n".join(f"{names[m['role']]}: {m['content']}" for m in sent) + "\nAssistant:"
        return ([] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]) + list(self.tokenizer.encode(text))


def until(mark: str, pieces: Iterator[str]) -> Iterator[str]:
    """The pieces up to `mark`, which is left out with all that follows; a tail that may become it waits."""
    held = ""
    for piece in pieces:
        held, found, _ = (held + piece).partition(mark)
        keep = 0 if found else next(n for n in range(len(mark) - 1, -1, -1) if held.endswith(mark[:n]))
        yield held[: len(held) - keep]
        if found:
            return
        held = mark[:keep]
    yield held


def _as_markdown(message: dict[str, str]) -> str:
    thought = message.get("reasoning", "")
    quoted = "".join(f"> {line}\n" for line in thought.splitlines()) + "\n" if thought else ""
    return f"**{message['role']}**\n\n{quoted}{message['content']}\n\n"
