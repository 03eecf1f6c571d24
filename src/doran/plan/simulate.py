"""One training step of a pipeline, played event by event: 1F1B, interleaved, ZB1P and DualPipe, any durations.

Every device runs its list of operations in order; one starts when the device is free and what it needs has arrived.
Times are vectors over the data-parallel replicas, so 2,048 GPUs are 16 devices with 128 times each. The papers'
formulas (schedules.py) hold where all operations take equally long; with jitter, slow links or slow nodes they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from doran.base.errors import ConfigError
from doran.base.rng import numpy_rng
from doran.plan.schedules import find_schedule

Kind = Literal["F", "B", "W"]  # B alone is the input half of the backward pass when the W of its micro-batch follows


class Piece(NamedTuple):
    """A pass of one micro-batch through one piece of the model. `flow`: direction (DualPipe) or chunk (interleaved)."""

    kind: Kind
    micro: int
    flow: int
    whole: bool = True  # a B that does its weight half as well


Op = tuple[Piece, ...]  # one piece, or a forward and a backward pass run together


@dataclass(frozen=True)
class Durations:
    """Seconds of a micro-batch on one device: forward, whole backward, and the backward's weight half.

    `together`: a forward and a backward pass side by side (None: one after the other). `hop`: to the next device.
    """

    forward: float
    backward: float
    weight: float
    together: float | None = None
    hop: float = 0.0

    def of(self, op: Op, pieces: int) -> float:
        """Seconds of an operation when the device's layers are cut into `pieces` equal pieces (interleaved)."""
        if len(op) == 2:
            return (self.forward + self.backward if self.together is None else self.together) / pieces
        piece = op[0]
        if piece.kind == "F":
            return self.forward / pieces
        if piece.kind == "W":
            return self.weight / pieces
        return (self.backward if piece.whole else self.backward - self.weight) / pieces


class Event(NamedTuple):
    """One operation of replica 0, for drawing."""

    device: int
    start: float
    end: float
    op: Op


@dataclass(frozen=True)
class Played:
    """A played step. `seconds_R`: of each replica; `busy`: mean seconds a device worked; `held`: most micro-batches."""

    seconds_R: NDArray[np.float64]
    busy: float
    held: int
    events: list[Event] = field(repr=False)

    @property
    def seconds(self) -> float:
        """The slowest replica."""
        return float(self.seconds_R.max())

    @property
    def bubble(self) -> float:
        """Share of the time that a device is idle, mean over devices and replicas."""
        return 1 - self.busy / float(self.seconds_R.mean())


def play(
    schedule: str,
    stages: int,
    micro_batches: int,
    durations: Durations,
    *,
    chunks: int = 1,
    replicas: int = 1,
    jitter: float = 0.0,
    seed: int = 0,
) -> Played:
    """Play one step. `jitter`: standard deviation of each operation's duration as a share of it."""
    lists = order(schedule, stages, micro_batches, chunks)
    pieces = chunks if schedule == "interleaved" else 1
    rng = numpy_rng("pipeline", seed, schedule, stages, micro_batches)
    done: dict[tuple[Kind, int, int, int], NDArray[np.float64]] = {}
    free = [np.zeros(replicas) for _ in range(stages)]
    at, busy, events = [0] * stages, 0.0, []
    moved = True
    while moved:
        moved = False
        for device in range(stages):
            while at[device] < len(lists[device]):
                op = lists[device][at[device]]
                ready = _ready(op, device, schedule, stages, chunks, durations.hop, done)
                if ready is None:
                    break
                start_R = np.maximum(free[device], ready)
                length: float | NDArray[np.float64] = durations.of(op, pieces)
                if jitter:
                    length = length * np.maximum(0.1, 1 + jitter * rng.standard_normal(replicas))
                free[device] = start_R + length
                for piece in op:
                    done[piece.kind, piece.micro, piece.flow, device] = free[device]
                busy += float(np.mean(length))
                events.append(Event(device, float(start_R[0]), float(free[device][0]), op))
                at[device] += 1
                moved = True
    assert all(at[d] == len(lists[d]) for d in range(stages)), f"{schedule} waits for itself"
    ends_R = np.maximum.reduce(free)
    return Played(ends_R, busy / stages, held(lists), events)


def _ready(
    op: Op, device: int, schedule: str, stages: int, chunks: int, hop: float,
    done: dict[tuple[Kind, int, int, int], NDArray[np.float64]],
) -> NDArray[np.float64] | float | None:  # fmt: skip
    """When what `op` needs has arrived, or None while it is not known yet."""
    latest: NDArray[np.float64] | float = 0.0
    for piece in op:
        need = needs(piece, device, schedule, stages, chunks)
        if need is None:
            continue
        if need not in done:
            return None
        latest = np.maximum(latest, done[need] + (hop if need[3] != device else 0.0))
    return latest


def needs(piece: Piece, device: int, schedule: str, stages: int, chunks: int) -> tuple[Kind, int, int, int] | None:
    """The operation that must be over before: the neighbour's or the own forward pass; None for the first."""
    if piece.kind == "W":
        return ("B", piece.micro, piece.flow, device)
    ahead = 1 if schedule != "dualpipe" or piece.flow == 0 else -1  # where forward passes go
    step = -ahead if piece.kind == "F" else ahead
    first, last = (0, stages - 1) if ahead == 1 else (stages - 1, 0)
    end = first if piece.kind == "F" else last
    if device != end:
        return (piece.kind, piece.micro, piece.flow, device + step)
    if schedule == "interleaved":  # from the last device of a chunk to the first of the next
        flow = piece.flow + (-1 if piece.kind == "F" else 1)
        if 0 <= flow < chunks:
            return (piece.kind, piece.micro, flow, stages - 1 - device)
    return None if piece.kind == "F" else ("F", piece.micro, piece.flow, device)


def held(lists: Sequence[Sequence[Op]]) -> int:
    """Most forward passes whose backward pass (weight half included) is still to come, on the fullest device."""
    most = 0
    for ops in lists:
        now = 0
        for op in ops:
            for piece in op:
                now += piece.kind == "F"
                most = max(most, now)
                now -= piece.kind == "W" or (piece.kind == "B" and piece.whole)
    return most


# ---- the order of operations -------------------------------------------------------------------------------------


def order(schedule: str, stages: int, micro_batches: int, chunks: int = 1) -> list[list[Op]]:
    """Each device's operations in the order it runs them. ConfigError where the schedule cannot take these numbers."""
    find_schedule(schedule)
    if stages < 1 or micro_batches < 1 or chunks < 1:
        raise ConfigError("pipeline: stages, micro-batches and chunks are whole numbers of one or more")
    if schedule == "interleaved":
        if micro_batches % stages:
            raise ConfigError(
                f"interleaved: {micro_batches} micro-batches are not a multiple of {stages} stages",
                hint="change the batch, or use 1f1b",
            )
        return [_interleaved(s, stages, micro_batches, chunks) for s in range(stages)]
    if schedule == "dualpipe":
        if stages % 2 or micro_batches % 2 or micro_batches < 2 * stages:
            raise ConfigError(
                f"dualpipe: {stages} stages and {micro_batches} micro-batches",
                hint="it needs even numbers and at least two micro-batches a stage",
            )
        return [_dualpipe(s, stages, micro_batches) for s in range(stages)]
    if schedule == "zb1p":
        return [_zb1p(s, stages, micro_batches) for s in range(stages)]
    return [_one_f_one_b(s, stages, micro_batches) for s in range(stages)]


def _one_f_one_b(stage: int, stages: int, m: int) -> list[Op]:
    warm = min(stages - stage, m)
    ops: list[Op] = [(Piece("F", k, 0),) for k in range(warm)]
    for k in range(m):
        ops.append((Piece("B", k, 0),))
        if warm + k < m:
            ops.append((Piece("F", warm + k, 0),))
    return ops


def _zb1p(stage: int, stages: int, m: int) -> list[Op]:
    """ZB-H1: as 1F1B, with the weight halves `stage` micro-batches late, so that they fill the gaps at the end."""
    warm = min(stages - stage, m)
    ops: list[Op] = [(Piece("F", k, 0),) for k in range(warm)]
    for k in range(m):
        ops.append((Piece("B", k, 0, whole=False),))
        if k >= stage:
            ops.append((Piece("W", k - stage, 0),))
        if warm + k < m:
            ops.append((Piece("F", warm + k, 0),))
    return ops + [(Piece("W", k, 0),) for k in range(max(0, m - stage), m)]


def _interleaved(stage: int, stages: int, m: int, chunks: int) -> list[Op]:
    """Megatron-LM: micro-batches in groups of `stages`, each group through all chunks."""
    passes = [(g + k, c) for g in range(0, m, stages) for c in range(chunks) for k in range(stages)]
    backward = [(micro, chunks - 1 - chunk) for micro, chunk in passes]
    warm = min((stages - stage - 1) * 2 + (chunks - 1) * stages, len(passes))
    ops: list[Op] = [(Piece("F", *passes[k]),) for k in range(warm)]
    for k in range(len(passes)):
        if warm + k < len(passes):
            ops.append((Piece("F", *passes[warm + k]),))
        ops.append((Piece("B", *backward[k]),))
    return ops


def _dualpipe(rank: int, stages: int, m: int) -> list[Op]:
    """DeepSeek's DualPipe: micro-batches enter from both ends, and a forward and a backward pass run together."""
    half_rank, half = min(rank, stages - 1 - rank), stages // 2
    mirrored = rank >= half
    ops: list[Op] = []
    nexts = {(kind, flow): 0 for kind in "FB" for flow in (0, 1)}
    waiting: list[tuple[int, int]] = []  # weight halves put off

    def take(kind: Kind, phase: int, whole: bool = True) -> Piece:
        flow = phase ^ mirrored
        micro = nexts[kind, flow]
        nexts[kind, flow] += 1
        if kind == "B" and not whole:
            waiting.append((micro, flow))
        return Piece(kind, micro, flow, whole)

    def weight() -> None:
        ops.append((Piece("W", *waiting.pop(0)),))

    for _ in range((half - half_rank - 1) * 2):  # 1: forward only
        ops.append((take("F", 0),))
    for _ in range(half_rank + 1):  # 2: forward from both ends
        ops.extend([(take("F", 0),), (take("F", 1),)])
    for _ in range(half - half_rank - 1):  # 3: the first backward passes, weight halves filling the gaps
        ops.append((take("B", 1, whole=False),))
        weight()
        ops.append((take("F", 1),))
    for number in range(m // 2 - stages + half_rank + 1):  # 4: the steady state
        if number == 0 and half_rank == half - 1:
            ops.extend([(take("F", 0),), (take("B", 1),)])
        else:
            ops.append((take("F", 0), take("B", 1)))
        ops.append((take("F", 1), take("B", 0)))
    for _ in range(half - half_rank - 1):  # 5
        ops.append((take("B", 1),))
        ops.append((take("F", 1), take("B", 0)))
    put_off = False
    for number in range(half_rank + 1):  # 6: backward only; the second half puts its weight halves off
        put_off = put_off or (number == (half_rank + 1) // 2 and half_rank % 2 == 1)
        ops.append((take("B", 1, whole=not put_off),))
        put_off = put_off or (number == (half_rank + 1) // 2 and half_rank % 2 == 0)
        ops.append((take("B", 0, whole=not put_off),))
    for _ in range(half - half_rank - 1):  # 7
        weight()
        ops.append((take("B", 0, whole=False),))
    while waiting:  # 8
        weight()
    return ops
