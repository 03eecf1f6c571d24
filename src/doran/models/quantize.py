"""A folder of quantised weights from a folder of plain ones, tensor by tensor: the model is never whole in memory.

Quantised: the matrices that DeepSeek keeps in FP8 (attention, dense and expert feed-forward), embedding and head.
Not: norms, router, biases, MTP's eh_proj, and MLA's kv_b_proj, which absorbed attention takes apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from doran.arch.count import quantized
from doran.arch.tensors import tensors
from doran.base.errors import ConfigError, UsageError
from doran.base.files import disk_errors, write_json
from doran.formats import quant
from doran.formats.safetensors_folder import write_folder
from doran.models.source import Source, plain
from doran.models.weights import open_source

_ENDS = ("model.embed_tokens.weight", "lm_head.weight")
COMPANIONS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.jinja",
              "generation_config.json", "LICENSE*")  # fmt: skip


@dataclass
class Quantisation:
    """What was done: bytes of all tensors before and after, and the matrices that could not be grouped."""

    before: int = 0
    after: int = 0
    kept: list[str] = field(default_factory=list)


def kind_of(name: str, shape: tuple[int, ...], matrices: set[str], kind: str, head_kind: str) -> str | None:
    """How a tensor is to be stored; None: as it is."""
    if name in _ENDS:
        return head_kind
    return kind if name in matrices and not name.endswith("kv_b_proj.weight") else None


def quantize_folder(source: str | Path, out: str | Path, kind: str, head_kind: str = "int8") -> Quantisation:
    """Write `out`: config.json with a quantization_config, weights, tokenizer. `kind` is `int8` or `int4`, `head_kind`
    the same for embedding and head. ConfigError: already quantised. UsageError: `out` is in use. NumericsError: NaN."""
    found, out = open_source(source), Path(out)
    for wanted in (kind, head_kind):
        if wanted not in quant.FORMATS:
            raise UsageError(f"unknown format {wanted!r}", hint=f"known: {', '.join(quant.FORMATS)}")
    if found.is_quantized:
        raise ConfigError(f"{source} is quantised already", hint="quantise the folder it was made from")
    if (out / "config.json").exists():
        raise UsageError(f"{out} already holds a model", hint="give a new folder")
    done = Quantisation()
    matrices = {name for name, _ in quantized(found.config)}
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    write_folder(out, _tensors(found, matrices, kind, head_kind, done))
    copy_companions(Path(source), out)
    facts = {"quant_method": quant.METHOD, "format": kind, "head_format": head_kind, "group_size": quant.GROUP}
    write_json(out / "config.json", replace(found.config, quantization_config=facts).to_hf())
    return done


def _tensors(
    source: Source, matrices: set[str], kind: str, head_kind: str, done: Quantisation
) -> Iterator[tuple[str, Tensor]]:
    for name, shape in tensors(source.config):
        value = plain(source.get(name))
        wanted = kind_of(name, shape, matrices, kind, head_kind)
        done.before += value.numel() * value.element_size()
        if wanted and not quant.fits(shape):
            done.kept.append(name)
        if wanted is None or not quant.fits(shape):
            done.after += value.numel() * value.element_size()
            yield name, value
            continue
        stored = quant.quantize(value, wanted)
        assert stored.scale is not None
        done.after += stored.num_bytes
        yield name, stored.codes
        yield name + quant.SCALE_SUFFIX, stored.scale


def copy_companions(source: Path, out: Path) -> None:
    """Tokenizer, chat template, generation settings and licence, where `source` is a folder."""
    for pattern in COMPANIONS if source.is_dir() else ():
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copy(file, out)
