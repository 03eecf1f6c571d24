"""Writing GGUF for llama.cpp. What the format or llama.cpp cannot hold is named, and refused unless accepted.

Our quantised folders go over without another rounding: int8 is Q8_0, int4 is Q4_0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from doran.arch.config import ModelConfig
from doran.arch.tensors import mtp_layer, tensors
from doran.base.errors import NumericsError, UsageError
from doran.formats import gguf_blocks
from doran.formats.gguf import TYPES, Planned, write
from doran.formats.quant import Stored, as_blocks
from doran.layers.rope import inverse_frequencies
from doran.models.gguf import gguf_name, metadata, row_order, split_kv_b
from doran.models.source import Entry, Source, plain
from doran.models.weights import open_source
from doran.text.gguf import rule_name, to_metadata
from doran.text.tokenizer import Tokenizer

_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_KIND_OF = {dtype: kind for kind, dtype in _DTYPES.items()}
_SAFER = {"q4_k": "q8_0", "q6_k": "q8_0", "q4_0": "f16", "q8_0": "f16"}  # where rows are no whole blocks
_ENDS = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass
class GGUFReport:
    """`kinds`: tensors by type; `lost`: what was accepted; `notes`: what a reader should know."""

    kinds: dict[str, int] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def losses(config: ModelConfig, tokenizer: Tokenizer | None) -> dict[str, str]:
    """What a GGUF file would lose, by a word for --accept."""
    found: dict[str, str] = {}
    if config.num_nextn_predict_layers:
        found["mtp"] = "the MTP module's weights (speculative decoding) have no place in the file"
    if tokenizer is not None and rule_name(tokenizer.backend) is None:
        found["tokenizer"] = "llama.cpp has no rule that cuts text as this tokenizer does: it will make other tokens"
    if isinstance(tokenizer.chat_template if tokenizer else None, dict):
        found["templates"] = "only the default one of several chat templates is kept"
    return found


def _refuse_impossible(config: ModelConfig) -> None:
    reasons = {
        "rope_interleave false": config.is_mla and not config.rope_interleave,
        "attention_bias with MLA": config.is_mla and config.attention_bias,
        "masked_group_score zero": config.masked_group_score != "-inf",
        "a YaRN attention_factor": config.rope_scaling is not None and config.rope_scaling.attention_factor is not None,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UsageError(f"llama.cpp computes no model with {reason}", hint="export with --format hf instead")


def export_gguf(source: str | Path, out: str | Path, kind: str = "auto", accept: Collection[str] = ()) -> GGUFReport:
    """Write the model at `source` to the file `out`. `kind`: auto (as stored) or one of formats.gguf.TYPES.
    UsageError: something would be lost that is not in `accept`, or llama.cpp cannot compute the model."""
    if kind not in ("auto", *TYPES):
        raise UsageError(f"unknown GGUF type {kind!r}", hint=f"known: auto, {', '.join(TYPES)}")
    folder = Path(source)
    has_tokenizer = any((folder / name).exists() for name in ("tokenizer.json", "vocab.json"))
    tokenizer = Tokenizer.load(folder) if has_tokenizer else None
    return write_gguf(open_source(source), tokenizer, out, kind, accept, folder.resolve().name)


def write_gguf(
    found: Source,
    tokenizer: Tokenizer | None,
    out: str | Path,
    kind: str,
    accept: Collection[str] = (),
    name: str = "doran",
) -> GGUFReport:
    """`export_gguf` of any source."""
    _refuse_impossible(found.config)
    lost = losses(found.config, tokenizer)
    for word, reason in lost.items():
        if word not in accept:
            raise UsageError(f"{name}: {reason}", hint=f"add --accept {word} to leave that behind, or use --format hf")
    report = GGUFReport(lost=lost)
    config = replace(found.config, num_nextn_predict_layers=0)
    planned = list(_plan(found, config, kind, report))
    meta = metadata(config) | {"general.name": name, "general.quantization_version": 2}
    if tokenizer is None:
        meta["tokenizer.ggml.model"] = "no_vocab"
        report.notes.append("no tokenizer in the folder: the file holds none either")
    else:
        meta |= to_metadata(tokenizer, config.vocab_size)
    write(out, meta, planned)
    return report


def _plan(source: Source, config: ModelConfig, kind: str, report: GGUFReport) -> Iterator[Planned]:
    def add(name: str, chosen: str, shape: tuple[int, ...], make: Callable[[], Tensor]) -> Planned:
        report.kinds[chosen] = report.kinds.get(chosen, 0) + 1
        return Planned(name, chosen, shape, make)

    for name, shape in tensors(config):
        if mtp_layer(name, config) is not None:
            continue
        if name.endswith("kv_b_proj.weight"):
            layer, chosen = f"blk.{name.split('.')[2]}.", _dense_kind(source.get(name), kind)
            for i, part in enumerate(("attn_k_b", "attn_v_b")):
                made = split_kv_b(torch.empty(shape, device="meta"), config)[i].shape
                half = partial(_half_of_kv_b, source, config, name, i, chosen)
                yield add(f"{layer}{part}.weight", chosen, tuple(made), half)
            continue
        theirs, expert = gguf_name(name)
        if expert not in (None, 0):
            continue
        names = [name]
        if expert == 0:
            prefix, _, last = name.rpartition(".experts.0.")
            names = [f"{prefix}.experts.{e}.{last}" for e in range(config.n_routed_experts)]
            shape = (len(names), *shape)
        chosen = _kind(name, source.get(name), shape, kind)
        yield add(theirs, chosen, shape, partial(_stack, source, config, names, chosen))
    if config.rope_scaling is not None and config.rope_scaling.rope_type == "llama3":
        slow = inverse_frequencies(replace(config, rope_scaling=None)) / inverse_frequencies(config)
        yield add("rope_freqs.weight", "f32", tuple(slow.shape), lambda: slow)


def _half_of_kv_b(source: Source, config: ModelConfig, name: str, half: int, kind: str) -> Tensor:
    return _dense(split_kv_b(plain(source.get(name)), config)[half], kind)


def _dense_kind(entry: Entry, wanted: str) -> str:
    if wanted in _DTYPES:
        return wanted
    dtype = torch.float16 if isinstance(entry, Stored) else entry.dtype
    return _KIND_OF.get(dtype, "f32")


def _kind(name: str, entry: Entry, shape: tuple[int, ...], wanted: str) -> str:
    """The type of one tensor: vectors and the router are f32; embedding and head get more bits than 4."""
    if len(shape) == 1 or name.endswith("mlp.gate.weight"):
        return "f32"
    if wanted == "auto":
        return as_blocks(entry).kind if isinstance(entry, Stored) else _dense_kind(entry, wanted)
    if name in _ENDS and wanted in ("q4_0", "q4_k"):
        wanted = "q6_k"
    while wanted in gguf_blocks.KINDS and shape[-1] % gguf_blocks.KINDS[wanted].size:
        wanted = _SAFER[wanted]
    return wanted


def _stack(source: Source, config: ModelConfig, names: list[str], kind: str) -> Tensor:
    parts = [_one(source.get(name), row_order(name, config), kind) for name in names]
    return parts[0] if len(parts) == 1 else torch.stack(parts)


def _one(entry: Entry, order: Tensor | None, kind: str) -> Tensor:
    if order is not None:
        entry = entry.rows(order) if isinstance(entry, Stored) else entry[order]
    if isinstance(entry, Stored) and as_blocks(entry).kind == kind:
        return as_blocks(entry).codes
    return gguf_blocks.quantize(kind, plain(entry)) if kind in gguf_blocks.KINDS else _dense(plain(entry), kind)


def _dense(tensor: Tensor, kind: str) -> Tensor:
    made = tensor.to(_DTYPES[kind])
    if kind == "f16" and not bool(made.isfinite().all()):
        raise NumericsError("a weight is too large for f16", hint="use --type bf16 or f32")
    return made
