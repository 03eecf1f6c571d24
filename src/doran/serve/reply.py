"""One reply while it is made: tokens in, pieces of thought, answer and tool calls out; and what it may say next.

Lives in the engine's thread as a request's watcher and veto. `</think>` is written for the model when the thought's
limit is reached or it runs in circles; grammar and tools hold only once the thought is over; language guards hold for
each part. Streamed or not, a client sees the same pieces joined. Not here: the formats of APIs.

Legend: V vocab_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from doran.engine.control import StopStrings, Token
from doran.serve.language import Guard, Place
from doran.serve.limits import EVERY, MIN_REPEATS, MIN_TOKENS, PATIENCE, Limits, find_loop
from doran.serve.structure import Grammars, Matcher
from doran.serve.tools import ToolFormat, ToolReader
from doran.text.detok import Detokenizer
from doran.text.parse import CLOSE, OPEN, StreamSplitter
from doran.text.tokenizer import Tokenizer

LONG_LOOP = 12, 256  # in an answer: repeats, tokens
Kind = Literal["reasoning", "answer", "call", "arguments"]
Ending = Literal["stop", "length", "tool_calls", "loop", "seconds", "abort", "error"]


class Piece(NamedTuple):
    """Some text of one kind. `call`: which tool call ("call": its name); `tokens`: of the answer, with logprobs."""

    kind: Kind
    text: str
    call: int = -1
    tokens: tuple[Token, ...] = ()


@dataclass
class Plan:
    """How a reply is to be made. `split=False`: no thoughts, the text is all answer (/v1/completions)."""

    tokenizer: Tokenizer
    vocab_size: int
    stop_ids: frozenset[int] = frozenset()
    split: bool = True
    opened: bool = False  # the prompt ends inside a thought
    may_think: bool = True
    stop: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    grammars: Grammars | None = None
    grammar: str | None = None  # of the whole answer
    tool_form: ToolFormat | None = None
    calls_grammar: str | None = None  # from behind the trigger on
    think_guard: Guard | None = None
    answer_guard: Guard | None = None
    keep_tokens: bool = False


class Reply:
    """The state of one completion. `emit` gets its pieces."""

    def __init__(self, plan: Plan, emit: Callable[[Piece], None]) -> None:
        self.plan, self._emit = plan, emit
        self._detokenizer = Detokenizer(plan.tokenizer)
        self._splitter = StreamSplitter(opened=plan.opened)
        self._stops = StopStrings(plan.stop)
        self._reader = ToolReader(plan.tool_form) if plan.tool_form else None
        self._matcher: Matcher | None = None
        self._inside, self._begun = plan.opened and plan.split, False  # in the thought; has the answer begun
        self._place = Place()
        self._close = _ids(plan.tokenizer, CLOSE)
        self._open_id = plan.tokenizer.control_tokens.get(OPEN)
        self._forced: list[int] = []
        self._over = 0  # tokens the thought went on beyond its limit
        self._started: float | None = None
        most = plan.limits.thought_seconds, plan.limits.seconds and 0.8 * plan.limits.seconds
        self._thought_seconds = min((s for s in most if s is not None), default=math.inf)
        self._waiting: list[Token] = []
        self.tokens: list[int] = []
        self.reasoning_tokens = 0
        self.ending: Ending | None = None
        self.closed_by: Literal["tokens", "seconds", "loop"] | None = None
        watched = (plan.stop, plan.grammar, plan.tool_form, plan.think_guard, plan.answer_guard, plan.keep_tokens)
        self._plain = not any(watched)  # nothing but tags and limits needs a look at single tokens
        if plan.grammar and not self._inside and not plan.may_think:
            self._begin_grammar()

    # ---- before a token counts -----------------------------------------------------------------------------------

    def veto(self, token: int) -> Tensor | None:
        """None: `token` may stand here. Else what may."""
        if self._started is None:
            self._started = self.plan.limits.clock()
        if self._inside and not self._forced and (why := self._thought_is_over()):
            self._forced, self.closed_by = list(self._close), why
        if self._forced:
            return None if token == self._forced[0] else _only(self._forced[0], self.plan.vocab_size)
        masks = [mask for mask in (self._structured(token), self._guarded(token)) if mask is not None]
        if not masks:
            return None
        allowed_V = self._everything()
        for mask in (self._structure_mask(), self._guard_mask()):
            if mask is not None:
                allowed_V = allowed_V & mask
        return allowed_V

    def _thought_is_over(self) -> Literal["tokens", "seconds", "loop"] | None:
        limits, why = self.plan.limits, None
        if limits.thought_tokens is not None and self.reasoning_tokens >= limits.thought_tokens:
            why = "tokens"
        elif self._elapsed() >= self._thought_seconds:
            why = "seconds"
        elif limits.loop_guard and len(self.tokens) % EVERY == 0 and find_loop(self.tokens):
            why = "loop"
        if why and self._detokenizer.pending and self._over < PATIENCE:
            self._over += 1
            return None
        return why  # type: ignore[return-value]

    def _elapsed(self) -> float:
        return self.plan.limits.clock() - (self._started or 0.0)

    def _may_open(self) -> bool:
        return self.plan.split and self.plan.may_think and not self._begun and not self._inside

    def _structured(self, token: int) -> Tensor | None:
        """The mask where a grammar refuses `token`."""
        if not self.plan.may_think and token == self._open_id and self.plan.split:
            return self._everything()
        if self._matcher and not self._matcher.fits(token):
            return self._matcher.allowed()
        waits = self.plan.grammar and not self._matcher and not self._inside
        if waits and not (token == self._open_id and self._may_open()):
            self._begin_grammar()  # an answer without a thought
            return None if self._matcher and self._matcher.fits(token) else self._everything()
        return None

    def _structure_mask(self) -> Tensor | None:
        return self._matcher.allowed() if self._matcher else None

    def _guard(self) -> Guard | None:
        if self._inside:
            return self.plan.think_guard
        return None if self._matcher else self.plan.answer_guard

    def _guarded(self, token: int) -> Tensor | None:
        """The mask where a language guard refuses `token`."""
        guard = self._guard()
        if guard is None or (token == self._tag() and not self._place.pending):
            return None
        return guard.allowed(self._place) if guard.after(self._place, token) is None else None

    def _tag(self) -> int | None:
        """The tag that may stand here: it belongs to no language, and no client sees it."""
        if self._inside:
            return self._close[0]
        return self._open_id if self.plan.may_think and self.plan.split else None

    def _guard_mask(self) -> Tensor | None:
        guard, tag = self._guard(), self._tag()
        if guard is None:
            return None
        mask_V = guard.allowed(self._place).clone()
        if tag is not None and not self._place.pending:
            mask_V[tag] = True
        return mask_V

    def _everything(self) -> Tensor:
        mask_V = torch.ones(self.plan.vocab_size, dtype=torch.bool)
        if not self.plan.may_think and self._open_id is not None and self.plan.split:
            mask_V[self._open_id] = False
        return mask_V

    # ---- several at once -------------------------------------------------------------------------------------------

    def careful(self) -> bool:
        """Must the next token be judged before another is drawn?"""
        return bool(self._forced) or self._matcher is not None

    def read(self, tokens: Sequence[int]) -> tuple[int, bool]:
        """Take several tokens in, exactly as one by one: how many stand, and whether the reply ends by the last."""
        before = len(self.tokens)
        self.tokens += tokens
        if self._is_simple(tokens, before):
            stopped = tokens[-1] in self.plan.stop_ids
            text = self._detokenizer.feed(*(tokens[:-1] if stopped else tokens))
            self.reasoning_tokens += self._inside * (len(tokens) - stopped)
            self._begun = self._begun or not self._inside and bool(text.strip())
            if text:
                self._emit(Piece("reasoning" if self._inside else "answer", text))
            if stopped:
                self.finish("stop")
            return len(tokens), stopped
        del self.tokens[before:]
        for i, token in enumerate(tokens):
            if self.veto(token) is not None:
                return i, False
            if self.watch(Token(token, 0.0)):
                return i + 1, True
        return len(tokens), False

    def _is_simple(self, tokens: Sequence[int], before: int) -> bool:
        """No tag, no limit and no loop in sight in self.tokens[before:], which are `tokens`."""
        limits, count, inside = self.plan.limits, len(tokens), self._inside
        if not self._plain or self._forced or not self.plan.stop_ids.isdisjoint(tokens[:-1]):
            return False
        if self.plan.split and (self._splitter.pending or b"<" in self._detokenizer.spelt(tokens)):
            return False
        if inside and limits.thought_tokens is not None and self.reasoning_tokens + count >= limits.thought_tokens:
            return False
        most = self._thought_seconds if inside else limits.seconds
        if most is not None and self._elapsed() >= most:
            return False
        if not limits.loop_guard:
            return True
        looks = range(-(-(before + (not inside)) // EVERY) * EVERY, before + count + (not inside), EVERY)
        repeats, least = (MIN_REPEATS, MIN_TOKENS) if inside else LONG_LOOP
        return not any(find_loop(self.tokens, repeats, least, end) for end in looks)

    # ---- after it -------------------------------------------------------------------------------------------------

    def watch(self, token: Token) -> bool:
        """Take a token in; True where the reply ends by it."""
        if self._forced:
            self._forced.pop(0)
        self.tokens.append(token.id)
        if token.id in self.plan.stop_ids:
            self.finish("stop")
            return True
        was_inside, had_matcher = self._inside, self._matcher is not None
        self.reasoning_tokens += was_inside or (self.plan.split and token.id == self._open_id)
        guard = self._guard()
        self._place = (guard.after(self._place, token.id) if guard else None) or Place()
        if self.plan.keep_tokens and not was_inside and token.id != self._open_id:
            self._waiting.append(token)
        ended = self._take(self._detokenizer.feed(token.id))
        if had_matcher and self._matcher and not self._matcher.take([token.id]):
            raise ValueError("the grammar refused a token that it had allowed")
        if was_inside != self._inside:
            self._place = Place()
        if self._matcher and self._matcher.done:
            ended = "tool_calls" if self._reader and self._reader.calls else "stop"
        ended = ended or self._too_long()
        if ended:
            self.finish(ended)
        return bool(ended)

    def _take(self, text: str) -> Ending | None:
        """Split a piece of text and send it on."""
        if not self.plan.split or (self._begun and (self.plan.grammar or self._matcher)):
            return self._answer(text)
        parts = self._splitter.feed(text)
        self._inside, was = self._splitter.inside, self._inside
        if was and not self._inside and self.plan.grammar:  # the thought is over: from here on the text is the answer's
            self._begun = True
            self._begin_grammar()
            parts += self._splitter.close()
        for kind, part in parts:
            if kind == "reasoning":
                self._emit(Piece("reasoning", part))
            else:
                if was and self._matcher and part.strip():  # `</think>` and more in one token
                    self._matcher.take(self.plan.tokenizer.encode(part))
                if ended := self._answer(part):
                    return ended
        return None

    def _answer(self, text: str) -> Ending | None:
        self._begun = self._begun or bool(text.strip())
        text, found = (text, False) if self._matcher and self.plan.grammar else self._stops.feed(text)
        self._send(text)
        if found:
            return "stop"
        if self._reader and self._reader.inside and not self._matcher and self.plan.calls_grammar:
            assert self.plan.grammars
            self._matcher = self.plan.grammars.matcher(self.plan.calls_grammar)
            self._matcher.take(self.plan.grammars.tokens(self._reader.behind_trigger))
        return None

    def _send(self, text: str) -> None:
        tokens = tuple(self._waiting)
        if self._reader:
            for kind, part, call in self._reader.feed(text):
                self._emit(Piece(kind, part, call, tokens))
                tokens, self._waiting = (), []
        elif text:
            self._emit(Piece("answer", text, -1, tokens))
            self._waiting = []

    def _begin_grammar(self) -> None:
        assert self.plan.grammars and self.plan.grammar
        self._matcher = self.plan.grammars.matcher(self.plan.grammar)

    def _too_long(self) -> Ending | None:
        limits = self.plan.limits
        if limits.seconds is not None and self._elapsed() >= limits.seconds:
            return "seconds"
        in_answer = not self._inside and limits.loop_guard and len(self.tokens) % EVERY == 0
        return "loop" if in_answer and find_loop(self.tokens, *LONG_LOOP) else None

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the reply."""
        return self._stops.found

    def finish(self, ending: Ending) -> None:
        """The reply is over: send what was held back. Once; later calls do nothing."""
        if self.ending is not None:
            return
        self.ending = ending
        if ending == "error":
            return
        tail = self._detokenizer.close()
        if self._guard():
            tail = ""  # a limit fell inside a character: half of one is in no language
        if self.plan.split:
            parts = [*self._splitter.feed(tail), *self._splitter.close()]
        else:
            parts = [("answer", tail)]
        stopped = self._stops.found is not None
        for kind, text in parts:
            if kind == "reasoning":
                self._emit(Piece("reasoning", text))
            elif not stopped:
                more, stopped = self._stops.feed(text)
                self._send(more)
        if not stopped:
            self._send(self._stops.close())
        for part in self._reader.close() if self._reader else ():
            self._emit(Piece(part.kind, part.text, part.call, tuple(self._waiting)))
            self._waiting = []
        if self._reader and self._reader.calls and self.ending == "stop":
            self.ending = "tool_calls"


def _ids(tokenizer: Tokenizer, text: str) -> Sequence[int]:
    control = tokenizer.control_tokens.get(text)
    return tokenizer.encode(text) if control is None else [control]


def _only(token: int, vocab_size: int) -> Tensor:
    mask_V = torch.zeros(vocab_size, dtype=torch.bool)
    mask_V[token] = True
    return mask_V
