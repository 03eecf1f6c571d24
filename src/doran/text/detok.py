"""Streaming detokenizer: ids in, text out as soon as it is whole. Never half a character, nothing lost at the end.

A Korean syllable is three bytes and may be three tokens; the first two yield nothing.
Not here: splitting thought from answer (parse.py).
"""
from __future__ import annotations

import codecs
from collections.abc import Sequence

from doran.text.tokenizer import Tokenizer


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes are themselves, the other 68 are U+0100 onwards in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


def token_bytes(token: str) -> bytes:
    """The bytes a vocabulary entry stands for; one outside the byte alphabet (an added token) is itself in UTF-8."""
    if all(char in BYTE_OF for char in token):
        return bytes(BYTE_OF[char] for char in token)
    return token.encode()


class Detokenizer:
    """Feed ids one by one; all pieces joined, with `close()`, equal `tokenizer.decode(ids, skip_special)`.

    For byte-level tokenizers (DeepSeek, Llama 3, Qwen, ours).
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = False) -> None:
        self._backend, self._known = tokenizer.backend, tokenizer.spelling
        added = self._backend.get_added_tokens_decoder() if skip_special else {}
        self._skipped = {index for index, token in added.items() if token.special}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, *token_ids: int) -> str:
        """Text that became whole with these tokens, often empty inside a character."""
        return self._decoder.decode(self.spelt(token_ids))

    def spelt(self, token_ids: Sequence[int]) -> bytes:
        """The bytes that `feed` would take in."""
        known = self._known
        for index in token_ids:
            if index not in known:
                token = self._backend.id_to_token(index)
                known[index] = b"" if token is None else token_bytes(token)
        return b"".join([known[index] for index in token_ids if index not in self._skipped])

    @property
    def pending(self) -> bool:
        """Does the text end inside a character?"""
        return bool(self._decoder.getstate()[0])

    def close(self) -> str:
        """What is left: U+FFFD where the ids ended inside a character, else nothing."""
        return self._decoder.decode(b"", final=True)
