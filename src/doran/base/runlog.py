"""What a run writes down: one JSON object a line in metrics.jsonl, and progress for the person who waits.

The file is the truth and is safe to cut: a torn last line (kill -9, full disk) is dropped, and after a resume
`truncate_after(step)` removes what the continued run will write again. Progress goes to stderr, so stdout stays data.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from doran.base.errors import DataError
from doran.base.files import StrPath, disk_errors, write_atomic


class MetricsWriter:
    """Appends rows to a JSONL file, each flushed at once. Opening drops a torn last line."""

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._drop_torn_line()
            self._file: IO[str] = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row. Tensors and NumPy scalars become numbers; NaN and infinity become null (JSON has neither)."""
        line = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)
        with disk_errors(self.path):
            self._file.write(line + "\n")
            self._file.flush()

    def truncate_after(self, step: int) -> None:
        """Keep the rows up to `step`, the step a run resumes from (and rows without a step)."""
        self._file.close()
        kept = [row for row in read_metrics(self.path) if row.get("step", step) <= step]
        write_atomic(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def close(self) -> None:
        """Close the file; writing after this is a mistake."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _drop_torn_line(self) -> None:
        if self.path.exists():
            data = self.path.read_bytes()
            if data and not data.endswith(b"\n"):
                write_atomic(self.path, data[: data.rfind(b"\n") + 1])


class Unwritten(MetricsWriter):
    """A writer for processes that write no files: every call is accepted, nothing happens."""

    def __init__(self) -> None:
        pass

    def write(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def truncate_after(self, step: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_metrics(path: StrPath) -> list[dict[str, Any]]:
    """The rows of a metrics file, oldest first; [] when there is no file. A torn last line is left out.

    Raises DataError, naming the line, when an earlier line is broken.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line break is torn, or empty
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise DataError(
                f"{path}, line {number}: not valid JSON", hint="the file was changed by hand: mend that line"
            ) from None
    return rows


class Meter(Protocol):
    """What a run costs; plan/meter.py has the one that counts."""

    def shown(self, done: int, total: int | None, first: int = 0) -> Mapping[str, str]:
        """Entries for the progress line."""

    def reached(self) -> str | None:
        """What to say when the budget is used up, else None."""


class Progress:
    """Progress of one stage on stderr: a live line on a terminal, else a plain line at most every `every` seconds.

    with Progress("zero", 200) as progress:
        progress.update(step, reward=0.41, length=37.5, **{"tok/s": 5400})
    """

    def __init__(
        self,
        stage: str,
        total_steps: int | None,
        *,
        stream: IO[str] | None = None,
        every: float = 10.0,
        meter: Meter | None = None,
    ) -> None:
        self.stage, self.total_steps, self.every, self.meter = stage, total_steps, every, meter
        self.stream = stream or sys.stderr
        self._started = self._printed = time.monotonic()
        self._first_step: int | None = None
        self._line = ""
        self._live: Any = None

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._printed = -math.inf
        if self.stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=self.stream), refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def update(self, step: int, **shown: Any) -> None:
        """Show that `step` steps are done, with the given numbers beside them. Cheap enough to call every step."""
        now = time.monotonic()
        if self._first_step is None:
            self._first_step = step
            self._started = now
        self._line = self._describe(step, now, shown)
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(self._line, overflow="ellipsis", no_wrap=True))
        elif now - self._printed >= self.every or step == self.total_steps:
            self._printed = now
            self._print(self._line)
            self._line = ""

    def out_of_budget(self) -> str | None:
        """What to say when the meter's budget is used up, else None."""
        return self.meter.reached() if self.meter else None

    def note(self, text: str) -> None:
        """One line that stays, above the live line."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            self._print(text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._line:
            self._print(self._line)  # the last state, when the throttle held it back

    def _print(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()

    def _describe(self, step: int, now: float, shown: Mapping[str, Any]) -> str:
        total = f"/{self.total_steps}" if self.total_steps else ""
        cost = self.meter.shown(step, self.total_steps, (self._first_step or 1) - 1) if self.meter else {}
        parts = [
            self.stage,
            f"step {step}{total}",
            *(f"{name} {format_number(value)}" for name, value in {**shown, **cost}.items()),
        ]
        done = step - (self._first_step or 0)
        if self.total_steps and done > 0 and step < self.total_steps:
            parts.append(f"ETA {format_seconds((now - self._started) / done * (self.total_steps - step))}")
        return " · ".join(parts)


def format_number(value: Any) -> str:
    """A number short enough for a progress line: 0.0312, 37.5, 5,400; anything else as it is."""
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def format_seconds(seconds: float) -> str:
    """42s, 3m05s, 1h02m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h{whole // 60 % 60:02}m"


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "item"):  # a NumPy scalar or a one-element tensor
        return _plain(value.item())
    return str(value)
