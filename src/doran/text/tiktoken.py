"""Tiktoken-style vocabularies (base64 bytes and a rank per line) turned into a `tokenizers` object with the same ids.

Llama 3's `tokenizer.model` and public copies of DeepSeek's vocabulary come so. Not here: sentencepiece models.
"""
from __future__ import annotations

import base64
import binascii
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Backend

from doran.base.errors import ArtifactError, ConfigError
from doran.text.detok import BYTE_OF
from doran.text.folder import split_then_bytes

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHAR_OF = {byte: char for char, byte in BYTE_OF.items()}


def read_ranks(path: str | Path) -> dict[bytes, int]:
    """Read lines of `base64 rank` (a `.gz` is opened as such). ArtifactError names the line that is not one."""
    path = Path(path)
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ArtifactError(
                f"{path}, line {number}: not a base64 token and its rank", hint="copy the file again from its source"
            ) from None
    return ranks


def from_ranks(ranks: Mapping[bytes, int], patterns: Sequence[str], specials: Mapping[str, int]) -> Backend:
    """A byte-level BPE with tiktoken's rule: of all neighbours, join the pair whose joined bytes have the lowest rank.

    `patterns` cut the text, each in turn. `specials` maps control tokens to their ids; those beyond the ranks must
    follow them without a gap (ConfigError names the token that cannot have its id). Every split of a token into two
    known ones becomes a merge, in the order of the token's rank, since tiktoken does not care which split it meets.
    """
    spelt = {token: "".join(_CHAR_OF[byte] for byte in token) for token in ranks}
    control = {content.encode() for content in specials}
    merges: list[tuple[str, str]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        if token not in control:  # specials among the ranks (DeepSeek's 0, 1, 2) are reached only as specials
            merges += [
                (spelt[token[:cut]], spelt[token[cut:]])
                for cut in range(1, len(token)) if token[:cut] in spelt and token[cut:] in spelt
            ]
    vocab = {token.decode() if token in control else spelt[token]: rank for token, rank in ranks.items()}
    # A piece that is a token already stays whole, as in tiktoken, even where no chain of merges leads to it.
    backend = Backend(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    backend.pre_tokenizer = split_then_bytes(*patterns)
    backend.decoder = decoders.ByteLevel()
    for content, index in sorted(specials.items(), key=lambda pair: pair[1]):
        backend.add_special_tokens([AddedToken(content, normalized=False, special=True)])
        if backend.token_to_id(content) != index:
            raise ConfigError(
                f"special token {content!r} should have id {index}, the next free is {backend.token_to_id(content)}",
                hint="name the tokens between them too (placeholders will do)",
            )
    return backend
