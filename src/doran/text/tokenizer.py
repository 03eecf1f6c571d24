"""The tokenizer: text to ids and back, chats to ids, over a byte-level BPE from the `tokenizers` library.

`Tokenizer.load` reads any HF folder (folder.py says which files), `train_bpe` makes a new one. Text from outside cannot
forge a control token: `encode` reads `<think>` as seven ordinary characters unless told `specials=True`, and
`encode_chat` does so inside what users and tools wrote, while the template's own tokens count.
"""
from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from doran.base.errors import ConfigError
from doran.text import folder as folders
from doran.text.chat import Message, render

BEGIN, END, PAD, USER, ASSISTANT = "<|begin|>", "<|end|>", "<|pad|>", "<|User|>", "<|Assistant|>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
SPECIALS = (BEGIN, END, PAD, USER, ASSISTANT, THINK_OPEN, THINK_CLOSE)  # ids 0..6 of a tokenizer we train

# DeepSeek-R1's form. A reply before the last message loses its thought (up to `</think>`). The generation prompt ends
# after <|Assistant|>, so opening the thought is the model's own act and the format reward has something to reward.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages if message['role'] == 'system' %}{{ message['content'] }}{% endfor %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{{ '<|User|>' + message['content'] }}
    {%- elif message['role'] == 'assistant' %}
        {%- set reply = message['content'] if loop.last else message['content'].split('</think>')[-1] %}
        {{- '<|Assistant|>' + reply + eos_token }}
    {%- elif message['role'] != 'system' %}
        {{- raise_exception('unknown role ' + message['role'] + ': use system, user or assistant') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|Assistant|>' }}{% endif %}
"""

# Numbers never carry a blank; words and signs swallow the blanks on both sides.
PATTERN = r"\p{N}{1,3}| ?\p{L}+ ?| ?[^\s\p{L}\p{N}]+ ?|\s+"


class Tokenizer:
    """A vocabulary with its special tokens and chat template."""

    def __init__(self, backend: Backend, settings: folders.Settings) -> None:
        backend.no_padding()
        backend.no_truncation()  # some tokenizer.json files carry a length limit, which would cut text in silence
        self._full, self._settings = backend, settings
        self.bos_id, self.eos_id, self.pad_id = (
            None if token is None else self.id_of(token)
            for token in (settings.bos_token, settings.eos_token, settings.pad_token)
        )

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read an HF folder. ArtifactError: missing or broken files; ConfigError: a style we do not know."""
        return cls(*folders.read(folder))

    def save(self, folder: str | Path) -> None:
        """Write a folder that AutoTokenizer reads with the same ids and the same chat rendering."""
        folders.write(folder, self._full, self._settings)

    @cached_property
    def vocab_size(self) -> int:
        """Highest id + 1, added tokens included. A model's `vocab_size` may be larger (padded), never smaller."""
        return max(self._full.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id that ends a reply: `eos_id` first, then the others the folder's generation config lists."""
        return tuple(dict.fromkeys(index for index in (self.eos_id, *self._settings.stop_ids) if index is not None))

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """The tokens that steer the model: marked special, or written `<...>`. Text alone never becomes one."""
        return {content: index for index, content in folders.control_tokens(self._full)}

    @cached_property
    def spelling(self) -> dict[int, bytes]:
        """The bytes of the tokens that detok.py has come across: a memory, empty at first."""
        return {}

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """The Jinja2 text, or several by name, or None for a base model's folder without one."""
        return self._settings.chat_template

    @property
    def backend(self) -> Backend:
        """The library's object, for detok.py and extend.py. Do not change it."""
        return self._full

    @property
    def settings(self) -> folders.Settings:
        """What the folder said beside the vocabulary."""
        return self._settings

    def id_of(self, token: str) -> int:
        """The id of one token, spelt as in the vocabulary (`<think>`, `12`). ConfigError where there is none."""
        index = self._full.token_to_id(token)
        if index is None:
            raise ConfigError(f"the tokenizer has no token {token!r}", hint="use a tokenizer that knows it")
        return int(index)

    def encode(self, text: str, specials: bool = False) -> list[int]:
        """Ids of `text`, nothing added around it. `specials=True` obeys control tokens in it: for trusted text only."""
        return self._pick(specials).encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str], specials: bool = False) -> list[list[int]]:
        """`encode` for many texts at once, on all cores."""
        return [found.ids for found in self._pick(specials).encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of `ids`; broken UTF-8 becomes U+FFFD, ids beyond the vocabulary (padding rows) become nothing.

        `skip_special=True` drops the tokens marked special: in ours begin, end and pad. Think and role tags stay.
        """
        return self._full.decode(list(ids), skip_special_tokens=skip_special)

    def apply_chat(
        self, messages: Sequence[Message], add_generation_prompt: bool = True,
        tools: Sequence[dict[str, Any]] | None = None, **variables: Any,
    ) -> str:
        """The conversation as the folder's template writes it. ConfigError: no template, or it refuses the messages.

        For ids use `encode_chat`: encoding this text with `specials=True` would obey tokens that a user typed.
        """
        named = {
            name: value for name in ("bos_token", "eos_token", "pad_token", "unk_token")
            if (value := getattr(self._settings, name)) is not None
        }
        return render(
            self._template(tools), messages, add_generation_prompt=add_generation_prompt, tools=tools,
            **{**named, **variables},
        )

    def encode_chat(
        self, messages: Sequence[Message], add_generation_prompt: bool = True,
        tools: Sequence[dict[str, Any]] | None = None, **variables: Any,
    ) -> list[int]:
        """Ids of the rendered conversation; control tokens that a user or a tool typed stay plain text."""
        mark = _unused_mark(messages)
        guarded = [self._guard(message, mark) for message in messages]
        text = self.apply_chat(guarded, add_generation_prompt, tools, **variables)
        if mark not in text:
            return self.encode(text, specials=True)
        ids: list[int] = []
        for piece in self._control_regex.split(text):
            control = self.control_tokens.get(piece)
            ids += self.encode(piece.replace(mark, "")) if control is None else [control]
        return ids

    def _pick(self, specials: bool) -> Backend:
        return self._full if specials else self._plain

    @cached_property
    def _plain(self) -> Backend:
        """The same vocabulary and cutting without control tokens, so that no spelling in the text can reach them."""
        state = json.loads(self._full.to_str())
        state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in self.control_tokens]
        return Backend.from_str(json.dumps(state | {"post_processor": None}))

    @cached_property
    def _control_regex(self) -> re.Pattern[str]:
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def _guard(self, message: Message, mark: str) -> Message:
        if message.get("role") not in ("user", "tool") or not self.control_tokens:
            return message
        return {**message, "content": _map_text(message.get("content"), self._break, mark)}

    def _break(self, text: str, mark: str) -> str:
        """Put the mark inside each control token, so that only those the template writes still match."""
        return self._control_regex.sub(lambda found: found[0][0] + mark + found[0][1:], text)

    def _template(self, tools: object) -> str:
        template = self._settings.chat_template
        if isinstance(template, dict):
            template = template.get("tool_use" if tools and "tool_use" in template else "default")
        if template is None:
            raise ConfigError("the tokenizer folder has no chat template", hint="add chat_template.jinja to the folder")
        return template


def _unused_mark(messages: Sequence[Message]) -> str:
    """A Unicode noncharacter (never text) that the conversation does not hold."""
    text = "".join(str(message.get("content")) for message in messages)
    return next(mark for mark in map(chr, range(0xFDD0, 0xFDF0)) if mark not in text)


def _map_text(value: Any, change: Any, mark: str) -> Any:
    """Apply `change` to the strings of a message's content: a string, or a list of parts."""
    if isinstance(value, str):
        return change(value, mark)
    if isinstance(value, list):
        return [_map_text(part, change, mark) for part in value]
    return {**value, "text": change(value["text"], mark)} if isinstance(value, dict) and "text" in value else value


def train_bpe(texts: Iterable[str], vocab_size: int, whole_numbers_up_to: int = 999) -> Tokenizer:
    """Train byte-level BPE on `texts`; the same texts give the same tokenizer, byte for byte.

    Numbers are cut into groups of up to three digits and never carry a blank, so every value 0..999 has exactly one
    spelling and one embedding: a small model learns one fact about 12, not four about "12", " 12", "1"+"2", " 1"+"2".
    The blanks go to the words and signs beside them (` + ` is one token), so `3 + 4 = 7` costs five tokens, and search
    transcripts stay short. Values 0..`whole_numbers_up_to` (at most 999) are whole tokens whatever the texts hold:
    their merges come first and no other merge can touch digits. Larger values take two tokens or more.

    `vocab_size` counts specials, the 256 bytes, numbers and merges; fewer come out where the texts are too small.
    ConfigError: it is too small for the first three, or the bound is not in 0..999.
    """
    if not 0 <= whole_numbers_up_to <= 999:
        raise ConfigError(f"whole_numbers_up_to is {whole_numbers_up_to}", hint="give a value from 0 to 999")
    number_merges = list(_number_merges(whole_numbers_up_to))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fixed = len(SPECIALS) + len(alphabet) + len(number_merges)
    if vocab_size < fixed:
        raise ConfigError(
            f"vocab_size is {vocab_size}, but specials, bytes and numbers alone need {fixed}",
            hint="raise vocab_size or lower whole_numbers_up_to",
        )
    word_merges = _train_words(texts, vocab_size - fixed, alphabet)
    merges = number_merges + word_merges
    # A token can have several merges ("a"+"bc", "ab"+"c"), hence the dict.
    tokens = dict.fromkeys([*SPECIALS, *alphabet, *(left + right for left, right in merges)])
    backend = Backend(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = folders.split_then_bytes(PATTERN)
    backend.decoder = decoders.ByteLevel()
    # Only begin, end and pad are "special" to decode(skip_special=True); a reader still wants to see the rest.
    backend.add_tokens([AddedToken(t, special=t in (BEGIN, END, PAD), normalized=False) for t in SPECIALS])
    return Tokenizer(
        backend, folders.Settings(bos_token=BEGIN, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE)
    )


def _number_merges(bound: int) -> Iterator[tuple[str, str]]:
    """Merges that make each of 10..bound one token. BPE joins the pair whose merge is earlier: the smaller number."""
    for value in range(10, min(bound, 99) + 1):
        yield str(value)[0], str(value)[1]
    for value in range(100, bound + 1):
        a, b, c = list(str(value))
        right_first = b != "0" and b + c < a + b
        yield (a, b + c) if right_first else (a + b, c)


def _train_words(texts: Iterable[str], num_merges: int, alphabet: list[str]) -> list[tuple[str, str]]:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.Split(Regex(r"[0-9]+"), behavior="removed"),  # digits have their merges already
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + num_merges, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    backend.train_from_iterator(texts, trainer)
    return [(left, right) for left, right in json.loads(backend.to_str())["model"]["merges"]]
