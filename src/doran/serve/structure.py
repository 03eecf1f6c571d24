"""Grammars over the answer: JSON, a schema, tool calls; llguidance does the matching. Never over the thought.

A drawn token that fits is kept as it is; only for one that does not is the mask computed and another token drawn.
Legend: V vocab_size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from doran.base.errors import UsageError
from doran.text.tokenizer import Tokenizer

# A space, or a line break and an indent: what people write. Without an end, blanks are a small model's trap.
SPACING = {"whitespace_flexible": True, "whitespace_pattern": r" |\n {0,12}"}


class Grammars:
    """Makes matchers for one tokenizer. `stop_ids` end the text where the grammar lets it end."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_ids: Sequence[int]) -> None:
        import llguidance

        self._lib, self._vocab_size, self._tokenizer = llguidance, vocab_size, tokenizer
        self._backend = llguidance.LLTokenizer(
            tokenizer.backend.to_str(), n_vocab=vocab_size, eos_token=list(stop_ids) or None
        )

    def json_schema(self, schema: dict[str, Any] | None) -> str:
        """The grammar of JSON texts that obey `schema` (None: any object). UsageError: what is not supported."""
        schema = {"type": "object"} if schema is None else schema
        try:
            return self.checked(self._lib.LLMatcher.grammar_from_json_schema(schema, overrides=SPACING))  # type: ignore[arg-type]
        except ValueError as error:
            raise UsageError(f"the JSON schema: {error}") from None

    def lark(self, text: str) -> str:
        """A grammar in llguidance's Lark dialect. UsageError: what is wrong with it."""
        return self.checked(self._lib.LLMatcher.grammar_from_lark(text))

    def checked(self, grammar: str) -> str:
        """The grammar itself; UsageError where it cannot be used."""
        if error := self._lib.LLMatcher.validate_grammar(grammar, self._backend):
            if not error.startswith("WARNING"):
                raise UsageError(f"the schema or grammar cannot be used: {error}")
        return grammar

    def literal(self, text: str) -> str:
        """`text` as Lark: control tokens by number, the rest quoted."""
        control = self._tokenizer.control_tokens
        parts: list[str] = []
        while text:
            at, name = min(((i, n) for n in control if (i := text.find(n)) >= 0), default=(len(text), ""))
            if at:
                parts.append(json.dumps(text[:at], ensure_ascii=False))
            if name:
                parts.append(f"<[{control[name]}]>")
            text = text[at + len(name) :]
        return " ".join(parts)

    def matcher(self, grammar: str) -> Matcher:
        """A fresh matcher at the start of the grammar."""
        return Matcher(self._lib.LLMatcher(self._backend, grammar, log_level=0), self._vocab_size)

    def tokens(self, text: str) -> list[int]:
        """Ids of a text, control tokens in it obeyed: what is left over behind a trigger."""
        return self._tokenizer.encode(text, specials=True)


class Matcher:
    """One text's walk through a grammar."""

    def __init__(self, backend: Any, vocab_size: int) -> None:
        self._backend, self._size = backend, vocab_size

    def fits(self, token: int) -> bool:
        """May `token` come next?"""
        return bool(self._backend.validate_tokens([token]) == 1)

    def allowed(self) -> Tensor:
        """What may come next, as a bool mask (V)."""
        bits = np.frombuffer(self._backend.compute_bitmask(), dtype=np.uint8)
        return torch.from_numpy(np.unpackbits(bits, bitorder="little")[: self._size].astype(bool))

    def take(self, tokens: Sequence[int]) -> bool:
        """Go on by `tokens`; False where they do not fit (then the matcher is of no more use)."""
        return bool(self._backend.consume_tokens(list(tokens)))

    @property
    def done(self) -> bool:
        """Nothing may come any more."""
        return bool(self._backend.is_stopped())
