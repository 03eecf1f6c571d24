"""More Korean in a byte-level BPE vocabulary: new merges behind the old ones, and what each new token is made of.

A new merge is tried only after every old one, so a text that holds no new pair keeps its ids. New pairs are taken from
words with Hangul alone and make tokens of whole Hangul letters (or the first bytes of one) and blanks, so English, code
and numbers keep theirs, byte for byte. Cutting into words stays the tokenizer's own.

Not here: embeddings (recipes/localise_model.py) and measuring (recipes/localise_measure.py).
"""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer as Backend

from doran.base.errors import ConfigError, DataError
from doran.text.tokenizer import Tokenizer

Pair = tuple[int, int]

MIN_COUNT = 2
"""A pair seen once is not worth a token."""

_HANGUL_LEAD = "".join(map(chr, range(0xEA, 0xEE)))  # bytes EA..ED, which stand for themselves in GPT-2's alphabet
_PIECE = re.compile(r"[ 가-힣]*")


@dataclass(frozen=True)
class Extension:
    """A tokenizer with new tokens. `pieces[i]`: the old ids that new token number i, id `first_id + i`, stands for."""

    tokenizer: Tokenizer
    first_id: int
    pieces: list[list[int]]

    @property
    def num_new(self) -> int:
        """How many tokens came on top."""
        return len(self.pieces)


def extend_bpe(tokenizer: Tokenizer, texts: Iterable[str], num_new: int) -> Extension:
    """Learn up to `num_new` Korean merges on `texts`. The same texts give the same tokens.

    ConfigError: the tokenizer is no plain byte-level BPE; DataError: the texts hold no Korean to learn from.
    """
    if num_new < 1:
        raise ConfigError(f"{num_new} new tokens", hint="ask for 1 or more")
    state = _checked(json.loads(tokenizer.backend.to_str()))
    words = korean_words(tokenizer.backend, texts)
    if not words:
        raise DataError("the texts hold no Korean words", hint="give Korean text to learn new tokens from")
    spelling = {index: token for token, index in state["model"]["vocab"].items()}
    first = tokenizer.vocab_size
    merges = learn(words, spelling, first, num_new)
    pieces: list[list[int]] = []
    for number, (left, right) in enumerate(merges):
        spelling[first + number] = spelling[left] + spelling[right]
        state["model"]["vocab"][spelling[first + number]] = first + number
        state["model"]["merges"].append(_like(state["model"]["merges"], spelling[left], spelling[right]))
        pieces.append([old for half in (left, right) for old in (pieces[half - first] if half >= first else [half])])
    made = Backend.from_str(json.dumps(state))
    return Extension(Tokenizer(made, tokenizer.settings), first, pieces)


def _checked(state: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer's JSON, if new merges at its end can do what they should (ConfigError)."""
    model = state["model"]
    if model.get("type") != "BPE":
        raise ConfigError(
            f"this tokenizer is {model.get('type')}, not BPE, and cannot be extended",
            hint="use a model with a byte-level BPE tokenizer (DeepSeek, Llama 3, Qwen)",
        )
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "dropout"):
        if model.get(key):
            raise ConfigError(
                f"this tokenizer uses {key} and cannot be extended", hint="use one with plain byte-level BPE"
            )
    return state


def _like(merges: list[Any], left: str, right: str) -> Any:
    """A merge in the file's own form: a pair, or (before tokenizers 0.20) one string with a blank."""
    return f"{left} {right}" if merges and isinstance(merges[0], str) else [left, right]


def korean_words(backend: Backend, texts: Iterable[str]) -> dict[tuple[int, ...], int]:
    """Words with Hangul, as old ids, and how often they occur."""
    counts: Counter[str] = Counter()
    for text in texts:
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text):
            if any(lead in piece for lead in _HANGUL_LEAD):
                counts[piece] += 1
    words: Counter[tuple[int, ...]] = Counter()
    for piece, count in counts.items():
        words[tuple(token.id for token in backend.model.tokenize(piece))] += count
    return {ids: count for ids, count in words.items() if len(ids) > 1}


def learn(words: dict[tuple[int, ...], int], spelling: dict[int, str], first: int, num_new: int) -> list[Pair]:
    """BPE's own loop, on words that are already cut: join the most frequent allowed pair, again and again.

    Ties go to the smaller ids. `spelling`: every old id in GPT-2's byte alphabet.
    """
    spelling = dict(spelling)
    spelt = [list(ids) for ids in words]
    counts = list(words.values())
    pairs: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, ids in enumerate(spelt):
        for pair in zip(ids, ids[1:], strict=False):
            pairs[pair] += counts[number]
            where[pair].add(number)
    taken = set(spelling.values())  # a token that exists already has its id, whatever merges lead to it
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < num_new:
        count, pair = heapq.heappop(heap)
        if -count != pairs[pair]:
            if pairs[pair] >= MIN_COUNT:
                heapq.heappush(heap, (-pairs[pair], pair))
            continue
        if -count < MIN_COUNT:
            break
        text = spelling[pair[0]] + spelling[pair[1]]
        if text in taken or not is_korean_piece(text):
            continue
        taken.add(text)
        new = first + len(merges)
        spelling[new] = text
        merges.append(pair)
        changed = _join(pair, new, where.pop(pair), spelt, counts, pairs, where)
        for other in changed:
            if pairs[other] >= MIN_COUNT:
                heapq.heappush(heap, (-pairs[other], other))
    return merges


def _join(
    pair: Pair, new: int, numbers: set[int], spelt: list[list[int]], counts: list[int], pairs: Counter[Pair],
    where: defaultdict[Pair, set[int]],
) -> set[Pair]:  # fmt: skip
    """Put `new` for `pair` in these words; which pairs have other counts now."""
    changed: set[Pair] = set()
    for number in numbers:
        ids, count, out = spelt[number], counts[number], []
        for old in zip(ids, ids[1:], strict=False):
            pairs[old] -= count
        at = 0
        while at < len(ids):
            here = at + 1 < len(ids) and (ids[at], ids[at + 1]) == pair
            out.append(new if here else ids[at])
            at += 2 if here else 1
        spelt[number] = out
        for made in zip(out, out[1:], strict=False):
            pairs[made] += count
            where[made].add(number)
            changed.add(made)
    return changed


def is_korean_piece(token: str) -> bool:
    """Whole Hangul letters and blanks, or the first bytes of one Hangul letter behind them, in GPT-2's alphabet.

    Blanks alone are no Korean. Nothing may begin in the middle of a letter: such a token could also meet other scripts.
    """
    raw = bytes(_BYTE_OF[char] for char in token)
    whole = raw.decode("utf-8", "ignore")
    rest = raw[len(whole.encode()) :]
    if not raw.startswith(whole.encode()) or not _PIECE.fullmatch(whole) or not raw.strip():
        return False
    return not rest or (len(rest) < 3 and 0xEA <= rest[0] <= 0xED and all(0x80 <= byte < 0xC0 for byte in rest[1:]))


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's character for each byte: printable ones stand for themselves, the others from U+0100 on."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + at): byte for at, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
