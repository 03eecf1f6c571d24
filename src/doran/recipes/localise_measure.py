"""How well a model folder's Korean is served: by its tokenizer (cost), by its weights (bits a byte). No training.

A syllable is one Hangul letter block (가..힣); other letters of a text count for its bytes and tokens but not for its
syllables, so use text that is mostly Korean. Bits a byte compare models across tokenizers, which a loss a token cannot.
Language mixing is measured on answers, by evaluations (evals/run.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from doran.base.errors import DataError
from doran.data.packing import IGNORE
from doran.layers.attention import PackedAttend
from doran.models.decoder import Decoder
from doran.text.tokenizer import Tokenizer
from doran.train.batch import ROUND_TOKENS, pack
from doran.train.losses import token_logprobs
from doran.train.pretrain import head_weight

_SYLLABLE = re.compile(r"[가-힣]")
_SENTENCE = re.compile(r"[^.!?。\n]+[.!?。]*")


@dataclass(frozen=True)
class Cost:
    """What texts cost in a tokenizer. `per_syllable` figures are None where there is no Hangul."""

    sentences: int
    bytes: int
    tokens: int
    syllables: int
    whole_syllables: float | None
    """Share of syllables that are not cut between tokens."""

    @property
    def tokens_per_sentence(self) -> float:
        return self.tokens / max(self.sentences, 1)

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(self.tokens, 1)

    @property
    def tokens_per_syllable(self) -> float | None:
        return self.tokens / self.syllables if self.syllables else None

    @property
    def bytes_per_syllable(self) -> float | None:
        return self.bytes / self.syllables if self.syllables else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the ratios included."""
        ratios = ("tokens_per_sentence", "bytes_per_token", "tokens_per_syllable", "bytes_per_syllable")
        return asdict(self) | {name: getattr(self, name) for name in ratios}


def cost(tokenizer: Tokenizer, texts: Sequence[str]) -> Cost:
    """Count sentences, bytes, tokens, syllables. DataError: no text."""
    if not any(text.strip() for text in texts):
        raise DataError("no text to measure on", hint="give text files, or leave them out")
    sentences = [found for text in texts for found in _SENTENCE.findall(text) if found.strip()]
    ids = tokenizer.encode_batch(sentences)
    syllables = sum(len(_SYLLABLE.findall(sentence)) for sentence in sentences)
    whole = sum(len(_SYLLABLE.findall(tokenizer.decode([index]))) for row in ids for index in row)
    return Cost(
        len(sentences), sum(len(s.encode()) for s in sentences), sum(map(len, ids)), syllables,
        whole / syllables if syllables else None,
    )  # fmt: skip


@torch.no_grad()
def bits_per_byte(model: Decoder, tokenizer: Tokenizer, texts: Sequence[str], window: int = 512) -> float:
    """Mean of -log2 p over the UTF-8 bytes of `texts`, each cut into windows of at most `window` tokens."""
    window = min(window, model.config.max_position_embeddings)
    start = [tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.stop_ids[0]] if _starts(tokenizer) else []
    samples, size = [], 0
    for text in texts:
        ids = tokenizer.encode(text)
        for at in range(0, len(ids), window - 1):
            piece = start + ids[at : at + window - 1]
            if len(piece) > 1:
                samples.append((piece, [False] + [True] * (len(piece) - 1)))
        size += len(text.encode())
    nats = 0.0
    for batch in _batches(samples, 4096):
        packed = pack(batch, round_to=ROUND_TOKENS)
        h_TD = model(packed.tokens_T, packed.positions_T, PackedAttend(packed.cu_seqlens))
        rows_N = (packed.targets_T != IGNORE).nonzero().squeeze(1)
        logprobs_N, _ = token_logprobs(h_TD[rows_N], head_weight(model), packed.targets_T[rows_N])
        nats -= float(logprobs_N.double().sum())
    return nats / math.log(2) / max(size, 1)


def _starts(tokenizer: Tokenizer) -> bool:
    """Is there a token to predict the first one from?"""
    return tokenizer.bos_id is not None or bool(tokenizer.stop_ids)


def _batches(samples: list[Any], tokens: int) -> list[list[Any]]:
    out: list[list[Any]] = []
    room = 0
    for sample in samples:
        if len(sample[0]) > room:
            out.append([])
            room = tokens
        out[-1].append(sample)
        room -= len(sample[0])
    return out


def measured(
    tokenizer: Tokenizer, model: Decoder | None, korean: Sequence[str], english: Sequence[str]
) -> dict[str, Any]:
    """Both languages: costs, and bits a byte where a model is given."""
    out: dict[str, Any] = {"vocab_size": tokenizer.vocab_size}
    for language, texts in (("ko", korean), ("en", english)):
        out[language] = cost(tokenizer, texts).to_dict()
        if model is not None:
            out[language]["bits_per_byte"] = bits_per_byte(model, tokenizer, texts)
    return out


ROWS = (
    ("tokens a sentence", "tokens_per_sentence"),
    ("tokens a syllable", "tokens_per_syllable"),
    ("bytes a syllable", "bytes_per_syllable"),
    ("bytes a token", "bytes_per_token"),
    ("syllables not cut", "whole_syllables"),
    ("bits a byte", "bits_per_byte"),
)


def lines(columns: dict[str, dict[str, Any]]) -> list[str]:
    """A table for people: one column a measurement, Korean and English apart."""
    out = [f"{'':<10}{'':<20}" + "".join(f"{name:>14}" for name in columns)]
    for language, title in (("ko", "Korean"), ("en", "English")):
        for label, key in ROWS:
            values = [column[language].get(key) for column in columns.values()]
            if any(value is not None for value in values):
                cells = "".join(f"{'-' if value is None else format(value, '.3f'):>14}" for value in values)
                out.append(f"{title:<10}{label:<20}{cells}")
                title = ""
    return out
