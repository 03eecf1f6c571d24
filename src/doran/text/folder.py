"""HF tokenizer folders: what lies in them, read into a `tokenizers` object and a few settings, and written back.

Reads `tokenizer.json`, or `vocab.json` + `merges.txt` (GPT-2 and Qwen2 style). Special tokens and the chat template
come from `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja`, `generation_config.json` and
`config.json`, the first that names them. Not here: encoding, templates at work, sentencepiece's `tokenizer.model`.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from doran.base.errors import ArtifactError, ConfigError
from doran.base.files import read_json, write_atomic, write_json

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
STYLES = {  # tokenizer_class (config) or model_type -> how text is cut before byte-level BPE
    "GPT2Tokenizer": "gpt2", "GPT2TokenizerFast": "gpt2", "gpt2": "gpt2",
    "Qwen2Tokenizer": "qwen2", "Qwen2TokenizerFast": "qwen2", "qwen2": "qwen2", "qwen3": "qwen2",
}

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # of an added token


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a tokenizer folder says beside the vocabulary. Tokens are strings, `None` where the folder names none."""

    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None
    stop_ids: tuple[int, ...] = ()  # every id of generation_config's eos_token_id (a list for Llama 3 and Qwen2.5)
    chat_template: str | dict[str, str] | None = None  # several by name in a dict ("default", "tool_use")
    config: dict[str, Any] = field(default_factory=dict)  # tokenizer_config.json as read, kept for writing back


def read(folder: str | Path) -> tuple[Backend, Settings]:
    """Read a tokenizer folder. ArtifactError: something is missing or broken; ConfigError: an unknown style."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"no tokenizer folder at {folder}", hint="give the folder that holds tokenizer.json")
    config = _json(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").exists():
        backend = _backend(folder / "tokenizer.json")
    elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        backend = _from_vocab_and_merges(folder, config)
    else:
        raise ArtifactError(
            f"{folder} holds no tokenizer", hint="it needs tokenizer.json, or vocab.json together with merges.txt"
        )
    if "ByteLevel" not in str(backend.decoder):
        raise ConfigError(
            f"{folder}: this tokenizer is not byte-level BPE",
            hint="the supported families (DeepSeek, Llama 3, Qwen) all are",
        )
    _add_declared_tokens(backend, config)
    return backend, _settings(folder, backend, config)


def write(folder: str | Path, backend: Backend, settings: Settings) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, which AutoTokenizer reads as they are, template included."""
    folder = Path(folder)
    template: Any = settings.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    named = {
        "bos_token": settings.bos_token, "eos_token": settings.eos_token, "pad_token": settings.pad_token,
        "unk_token": settings.unk_token, "chat_template": template,
    }
    # The generic class: a named one (LlamaTokenizerFast) may put its own pre-tokenizer over tokenizer.json's.
    config = {
        **{key: value for key, value in settings.config.items() if key not in named},
        "clean_up_tokenization_spaces": False, "tokenizer_class": "PreTrainedTokenizerFast",
        **{key: value for key, value in named.items() if value is not None},
    }
    write_atomic(folder / "tokenizer.json", backend.to_str(pretty=True))
    write_json(folder / "tokenizer_config.json", config)


def _json(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.exists() else {}
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} does not hold a JSON object", hint="copy the file again from its source")
    return value


def _backend(path: Path) -> Backend:
    try:
        return Backend.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception for anything it cannot read
        raise ArtifactError(f"{path} is not a tokenizer: {error}", hint="copy the file again from its source") from None


def _from_vocab_and_merges(folder: Path, config: dict[str, Any]) -> Backend:
    named = config.get("tokenizer_class") or _json(folder / "config.json").get("model_type") or "gpt2"
    if named not in STYLES:
        known = ", ".join(sorted(STYLES))
        raise ConfigError(
            f"{folder}: vocab.json and merges.txt alone do not say how {named} cuts text (known: {known})",
            hint="add tokenizer.json, which says it",
        )
    try:
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:
        raise ArtifactError(f"{folder}: vocab.json or merges.txt is broken: {error}", hint="copy both again") from None
    backend = Backend(model)
    if STYLES[named] == "qwen2":
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = split_then_bytes(QWEN2_PATTERN)
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space", False)))
    backend.decoder = decoders.ByteLevel()
    return backend


def split_then_bytes(*patterns: str) -> pre_tokenizers.PreTokenizer:
    """Cut text by each pattern in turn, keeping matches and gaps, then spell every piece in GPT-2's byte alphabet."""
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _add_declared_tokens(backend: Backend, config: dict[str, Any]) -> None:
    """Add the tokens of `added_tokens_decoder` that the vocabulary lacks, in the order of their ids."""
    declared = config.get("added_tokens_decoder") or {}
    known = {added.content for added in backend.get_added_tokens_decoder().values()}
    for index, token in sorted(declared.items(), key=lambda pair: int(pair[0])):
        flags = {key: token[key] for key in FLAGS if key in token}
        if token["content"] not in known:
            backend.add_tokens([AddedToken(token["content"], **flags)])
        if backend.token_to_id(token["content"]) != int(index):
            raise ArtifactError(
                f"tokenizer_config.json gives {token['content']!r} the id {index}, the vocabulary gives it "
                f"{backend.token_to_id(token['content'])}",
                hint="the two files come from different tokenizers: copy both from one place",
            )


def _settings(folder: Path, backend: Backend, config: dict[str, Any]) -> Settings:
    generation, model = _json(folder / "generation_config.json"), _json(folder / "config.json")
    tokens = {**_named_tokens(_json(folder / "special_tokens_map.json")), **_named_tokens(config)}
    for name in ("bos", "eos", "pad"):
        for source in (generation, model):
            for index in _ids(source.get(f"{name}_token_id"))[:1]:
                if (token := backend.id_to_token(index)) is not None:
                    tokens.setdefault(f"{name}_token", token)
    return Settings(
        bos_token=tokens.get("bos_token"), eos_token=tokens.get("eos_token"), pad_token=tokens.get("pad_token"),
        unk_token=tokens.get("unk_token"), config=config, chat_template=_template(folder, config),
        stop_ids=_ids(generation.get("eos_token_id")) or _ids(model.get("eos_token_id")),
    )


def _named_tokens(source: dict[str, Any]) -> dict[str, str]:
    """`bos_token` and its kin: a string, or an AddedToken written out as a dict."""
    values = {key: source.get(key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    plain = {key: value["content"] if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in plain.items() if value is not None}


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)


def _template(folder: Path, config: dict[str, Any]) -> str | dict[str, str] | None:
    beside = folder / "chat_template.jinja"
    if beside.exists():
        return beside.read_text(encoding="utf-8")
    value = config.get("chat_template")
    return {entry["name"]: entry["template"] for entry in value} if isinstance(value, list) else value


def control_tokens(backend: Backend) -> Iterator[tuple[int, str]]:
    """Added tokens that steer the model: marked special, or written `<...>` (Qwen3 and R1 leave `<think>` unmarked)."""
    for index, token in sorted(backend.get_added_tokens_decoder().items()):
        if token.special or (token.content.startswith("<") and token.content.endswith(">")):
            yield index, token.content
