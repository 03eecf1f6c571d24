"""Too little memory, said before the first step and with the mend: the settings that would fit.

On a CPU the system often ends a process that takes too much without a word, so a forecast that does not fit is told
before it happens. Where an allocation does fail, the error says what would fit. Not here: trying it (rehearsal.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from doran.arch.config import ModelConfig
from doran.base.device import available_memory
from doran.base.errors import OutOfMemory
from doran.base.runlog import Progress
from doran.models.decoder import Decoder
from doran.plan.memory import Memory, stored_parameters, training_memory

FEWEST_TOKENS = 256
GB = 1e9


def forecast(config: ModelConfig, settings: Any, trained: float = 1.0, **changes: Any) -> Memory:
    """What a step of a trainer with these settings needs; `trained`: the share of the weights that learns (LoRA)."""
    s = settings.model_copy(update=changes)
    memory = training_memory(
        config, getattr(s, tokens_name(s)), dtype_bytes=2 if s.bf16 else 4, optimizer=s.optimizer,
        activation_checkpointing=s.activation_checkpointing,
    )  # fmt: skip
    reference = 4 * stored_parameters(config) if getattr(s, "beta", 0) else 0
    learning = {name: round(trained * getattr(memory, name)) for name in ("gradients", "optimizer")}
    return replace(memory, reference=reference, **learning)


def tokens_name(settings: Any) -> str:
    """The setting that says how many tokens a forward pass has."""
    return "tokens_per_micro_batch" if hasattr(settings, "tokens_per_micro_batch") else "tokens_per_batch"


def what_fits(config: ModelConfig, settings: Any, room: int, trained: float = 1.0) -> dict[str, Any] | None:
    """The least change of settings whose forecast is at most `room` bytes; {}: none is needed, None: there is none.

    Tried in the order of what they cost: time first (a forward pass more), then smaller batches, then coarser moments.
    """
    name, least = tokens_name(settings), max(FEWEST_TOKENS, getattr(settings, "max_new_tokens", 0))
    tokens = [getattr(settings, name)]
    while tokens[-1] // 2 >= least:
        tokens.append(tokens[-1] // 2)
    coarser = [settings.optimizer, *(["adamw8bit"] if settings.optimizer == "adamw" else [])]
    for optimizer in coarser:
        for count in tokens:
            for again in dict.fromkeys((settings.activation_checkpointing, True)):
                tried = {"activation_checkpointing": again, name: count, "optimizer": optimizer}
                if forecast(config, settings, trained, **tried).peak <= room:
                    return {key: value for key, value in tried.items() if value != getattr(settings, key)}
    return None


def mend(config: ModelConfig, settings: Any, room: int, trained: float = 1.0) -> str:
    """What to write on the command line, in words."""
    found = what_fits(config, settings, room, trained)
    if found is None:
        return "no setting would fit: train an adapter (--lora-rank 16), or take a smaller model"
    if not found:
        return f"use half of train.{tokens_name(settings)}, or train.activation_checkpointing=true"
    written = " ".join(f"train.{key}={str(value).lower()}" for key, value in found.items())
    return f"{written} would fit ({forecast(config, settings, trained, **found).peak / GB:.1f} GB)"


@contextmanager
def memory_told(model: Decoder, settings: Any, progress: Progress | None) -> Iterator[None]:
    """Around a trainer's steps: a warning where the forecast does not fit; OutOfMemory, with the mend."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / max(1, total)
    room = available_memory() + held()
    needs = forecast(model.config, settings, trained).peak
    if needs > room and progress is not None:
        said = mend(model.config, settings, room, trained)
        progress.note(f"a step may need {needs / GB:.1f} GB of memory, and {room / GB:.1f} GB are there\n  -> {said}")
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise OutOfMemory(
            f"out of memory: a step needs about {needs / GB:.1f} GB, {room / GB:.1f} GB were there",
            hint=mend(model.config, settings, min(room, round(0.8 * needs)), trained),
        ) from error


def ran_out(error: BaseException) -> bool:
    """Is this an allocation that failed? Torch has a class for it on a GPU only."""
    words = ("DefaultCPUAllocator", "can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def held() -> int:
    """Bytes of memory this process holds now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
