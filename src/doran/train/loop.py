"""The loop every trainer runs in: resume, step, log, checkpoint, finish. It knows no loss and no data.

    out_dir/{checkpoints/step_N/, metrics.jsonl, model/}

A step depends on nothing but the weights, the optimizer and its own number, so a run that was killed and started again
ends with the same weights, bit for bit. `model/` appears complete, by rename, after the last step, and never otherwise.
In a world of several processes all run the loop, and the first alone writes.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from doran.base.config import later
from doran.base.errors import ArtifactError, BudgetReached, ConfigError, DoranError, Interrupted, NumericsError
from doran.base.files import disk_errors, fsync_folder
from doran.base.runlog import MetricsWriter, Progress, Unwritten
from doran.layers.lora import PARTS, lora_layers, merged
from doran.models.adapters import save_adapter
from doran.models.decoder import Decoder
from doran.models.weights import save_model
from doran.parallel.parts import is_divided, own
from doran.parallel.world import SOLO, World
from doran.train import checkpoint
from doran.train.fitting import memory_told
from doran.train.optim import Optimizer, OptimSettings
from doran.train.schedule import ScheduleName, lr_factor

Metrics = dict[str, Any]
StepFn = Callable[[int], Metrics]


class LoopSettings(OptimSettings):
    """Settings that all trainers share."""

    seed: int = Field(0, ge=0, description="names every random stream of the run")
    schedule: ScheduleName = Field("wsd", description="wsd, cosine or constant")
    warmup_steps: int = Field(20, ge=0, description="linear warm-up from 0")
    decay_fraction: float = Field(
        0.3, gt=0, le=1, description="wsd: last part of the steps, spent falling to min_lr_factor"
    )
    min_lr_factor: float = Field(0.0, ge=0, le=1, description="share of the peak rate at the end of the decay")
    bf16: bool = Field(True, description="matmuls in bfloat16 (autocast); weights, gradients and optimizer stay fp32")
    checkpoint_every_steps: int | None = Field(None, ge=1, description="checkpoint after this many steps")
    checkpoint_every_s: float | None = Field(60.0, gt=0, description="and after this many seconds")
    log_every: int = Field(1, ge=1, description="steps between rows of metrics.jsonl")
    activation_checkpointing: bool = later(
        False, description="keep only each layer's input for the backward pass: less memory, a forward pass more"
    )


CADENCE = frozenset(
    {"checkpoint_every_steps", "checkpoint_every_s", "log_every", "record", "activation_checkpointing", "rehearse"}
)
"""Settings that change no weight: a run may be continued with other values of these."""


@dataclass
class Loop:
    """One resumable run. `memory`: JSON state a trainer keeps between steps; `companions`: other models (reference)."""

    model: Decoder
    optimizer: Optimizer
    settings: LoopSettings
    out_dir: Path
    total_steps: int
    progress: Progress | None = None
    shown: tuple[str, ...] = ("loss", "lr")
    add_files: Callable[[Path], None] | None = None
    save: Callable[[Decoder, Path], None] = save_model  # how the finished model is written
    memory: dict[str, Any] = field(default_factory=dict)
    companions: dict[str, nn.Module] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)  # what else must be the same to continue, e.g. a data hash
    stop: bool = False  # a step may set it: that step was the last
    world: World = SOLO

    def run(self, start: Callable[[int], StepFn]) -> Path:
        """Run what is left and return the model folder. `start(step)` is called once, with the step to begin from.

        Errors: NumericsError on a loss or gradient that is not finite; OutOfMemory, with what would fit; Interrupted,
        after a checkpoint, on Ctrl-C or SIGTERM.
        """
        self.model.activation_checkpointing = self.settings.activation_checkpointing
        step = self._resume()
        if step < self.total_steps and not self.stop:
            self.world.once(self._drop_model)
            rows = self.writer("metrics.jsonl")
            with flushed_denormals(), rows as writer, interruptible() as interrupted:
                writer.truncate_after(step)
                with memory_told(self.model, self.settings, self.progress):
                    self._steps(step, start(step), writer, interrupted)
        return self._finish()

    def writer(self, name: str) -> MetricsWriter:
        """The JSONL file `name` in the run's folder, for the process that writes."""
        return MetricsWriter(self.out_dir / name) if self.world.first else Unwritten()

    def lr_factor(self, step: int) -> float:
        """Factor on the peak learning rates in `step`."""
        s = self.settings
        return lr_factor(
            step,
            self.total_steps,
            schedule=s.schedule,
            warmup_steps=s.warmup_steps,
            decay_fraction=s.decay_fraction,
            min_factor=s.min_lr_factor,
        )

    def _steps(self, first: int, step_fn: StepFn, writer: MetricsWriter, interrupted: Callable[[], bool]) -> None:
        saved_at = time.perf_counter()
        for step in range(first, self.total_steps):
            began = time.perf_counter()
            metrics = step_fn(step)
            require_finite(metrics, step, self.settings)
            done = step + 1
            seconds = time.perf_counter() - began
            if done % self.settings.log_every == 0 or done == self.total_steps or self.stop:
                row = self._row(done, metrics, seconds)
                writer.write(row)
                if self.progress is not None:
                    self.progress.update(done, **{name: row[name] for name in self.shown if name in row})
            last = done == self.total_steps or self.stop
            spent = None if last or self.progress is None else self.progress.out_of_budget()
            told = self.world.gather((interrupted(), spent, self._due(done, time.perf_counter() - saved_at)))
            stopped, (_, spent, due) = any(flag for flag, *_ in told), told[0]  # clocks differ: the first one's counts
            if last or stopped or spent or due:
                self._save(done)
                saved_at = time.perf_counter()
            if stopped and not last:
                raise Interrupted(
                    f"stopped after step {done} of {self.total_steps}", hint="run the same command to continue"
                )
            if spent:
                raise BudgetReached(spent, hint="run the same command with a larger budget to continue")
            if last:
                return

    def _row(self, done: int, metrics: Metrics, seconds: float) -> Metrics:
        row = {"step": done, **{k: float(v) if isinstance(v, Tensor) else v for k, v in metrics.items()}}
        row["lr"] = self.settings.lr * self.lr_factor(done - 1)
        row["step_time"] = seconds
        if "tokens" in row:
            row["tokens_per_second"] = row["tokens"] / seconds
        return row

    def _due(self, done: int, seconds_since: float) -> bool:
        s = self.settings
        by_steps = s.checkpoint_every_steps is not None and done % s.checkpoint_every_steps == 0
        return by_steps or (s.checkpoint_every_s is not None and seconds_since >= s.checkpoint_every_s)

    def _save(self, done: int) -> None:
        tensors = {f"optimizer/{name}": t for name, t in self.optimizer.state_tensors().items()}
        for key, module in {"model": self.model, **self.companions}.items():
            tensors |= {f"{key}/{name}": t for name, t in module_tensors(module).items()}
        state = {"settings": self._identity(), "memory": self.memory, "stop": self.stop}
        checkpoint.save(self.out_dir / "checkpoints", done, tensors, state, world=self.world)

    def _resume(self) -> int:
        found = checkpoint.load_latest(self.out_dir / "checkpoints", self._like() if self.world.shards else None)
        self._require_one_folder(0 if found is None else found.step)
        if found is None:
            if not self.world.shards:
                self.world.copy_from_first(self.model.state_dict().values())
            return 0
        _same_settings(found.state["settings"], self._identity(), self.out_dir)
        for key, module in {"model": self.model, **self.companions}.items():
            load_module_tensors(module, found.under(key))
        self.optimizer.load_state_tensors(found.under("optimizer"))
        self.memory.update(found.state["memory"])
        self.stop = found.state["stop"]
        return found.step

    def _like(self) -> checkpoint.Like:
        """How each tensor of a checkpoint is divided here: as the weights that it is, or belongs to."""
        modules: dict[str, nn.Module] = {"model": self.model, **self.companions}
        held = {f"{key}/{name}": t for key, module in modules.items() for name, t in module.state_dict().items()}

        def like(name: str, shape: torch.Size) -> Tensor | None:
            kind, _, rest = name.partition("/")
            t = held.get("model/" + rest.partition("/")[2] if kind == "optimizer" else name)
            return torch.zeros_like(t) if t is not None and t.shape == shape else None

        return like

    def _require_one_folder(self, step: int) -> None:
        """Processes on several machines must see the same checkpoints (DoranError)."""
        steps = self.world.gather(step)
        if len(set(steps)) > 1:
            raise DoranError(
                f"{self.out_dir}: the processes see checkpoints of different steps, {min(steps)} to {max(steps)}",
                hint="give an output folder that all machines share",
            )

    def _identity(self) -> dict[str, Any]:
        return {**self.settings.model_dump(mode="json"), **self.identity}

    def _drop_model(self) -> None:
        """A model folder from before is not the result of the steps to come."""
        shutil.rmtree(self.out_dir / "model", ignore_errors=True)

    def _finish(self) -> Path:
        final = self.out_dir / "model"
        if not self.world.once(final.exists):
            model = self.model
            if self.world.shards:
                from doran.parallel.shards import gathered

                model = gathered(model)
            self.world.once(lambda: self._write_model(model, final, self.out_dir / ".model-writing"))
        return final

    def _write_model(self, model: Decoder, final: Path, beside: Path) -> None:
        with disk_errors(final):
            shutil.rmtree(beside, ignore_errors=True)
            with merged(model):
                self.save(model, beside)
            if lora_layers(model):
                save_adapter(model, beside / "adapter")
            if self.add_files is not None:
                self.add_files(beside)
            os.rename(beside, final)
            fsync_folder(self.out_dir)


def divided(model: Decoder, world: World) -> Decoder:
    """`model`, its weights divided over the processes where `world` says so (parallel/shards.py)."""
    if world.shards:
        from doran.parallel.shards import divide

        divide(model, world)
    return model


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; a tensor under two names (tied embeddings) once.

    Of a model with adapters only these and the buffers: its other weights are the base folder's.
    """
    seen: set[tuple[int, tuple[int, ...]]] = set()
    tensors = {}
    frozen = {n for n, _ in module.named_parameters() if not n.endswith(PARTS)} if lora_layers(module) else set()
    for name, t in module.state_dict().items():
        if name in frozen:
            continue
        key = (own(t).data_ptr(), tuple(t.shape))
        if key not in seen or is_divided(t):
            seen.add(key)
            tensors[name] = t
    return tensors


@torch.no_grad()
def load_module_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy `module_tensors` back in place. ArtifactError unless names and shapes are the same."""
    own = module_tensors(module)
    wrong = sorted(own.keys() ^ tensors.keys()) or [n for n, t in own.items() if t.shape != tensors[n].shape]
    if wrong:
        raise ArtifactError(
            f"the checkpoint is of another model: '{wrong[0]}' differs",
            hint="use another output folder, or delete its checkpoints to start again",
        )
    for name, t in own.items():
        t.copy_(tensors[name])


def require_finite(metrics: Metrics, step: int, settings: LoopSettings) -> None:
    """NumericsError when `loss` or `grad_norm` is NaN or inf."""
    for name in ("loss", "grad_norm"):
        if name in metrics and not math.isfinite(value := float(metrics[name])):
            mend = f"lower lr (now {settings.lr:g}) or grad_clip" + (", or set bf16=false" if settings.bf16 else "")
            raise NumericsError(
                f"{name} is {value} in step {step + 1}",
                hint=f"{mend}; no model was written, and the last checkpoint is from before this step",
            )


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C or SIGTERM only sets a flag (yielded as a function); the second acts as always."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Inside, numbers below 1e-38 count as 0: a denormal moment would cost about 100 cycles an operation on x86."""
    before = float(torch.tensor(1e-39) * 1.0) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _same_settings(then: Mapping[str, Any], now: Mapping[str, Any], out_dir: Path) -> None:
    changed = [k for k in sorted(then.keys() | now.keys()) if k not in CADENCE and then.get(k) != now.get(k)]
    if changed:
        k = changed[0]
        raise ConfigError(
            f"{k}: {out_dir} was started with {then.get(k)!r}, now it is {now.get(k)!r}",
            hint="use the old value, another output folder, or delete the folder's checkpoints to start again",
        )
