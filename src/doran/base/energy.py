"""Joules that the processor has used, where Linux tells them (RAPL). Not an estimate: that is plan/meter.py's part.

Reading needs permission for /sys/class/powercap, and virtual machines have none: then there is simply no measurement.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass
class EnergyCounter:
    """Joules since it was made. The hardware's counters wrap every few minutes to hours: call `joules` often."""

    root: Path = POWERCAP
    _last: dict[Path, int] = field(default_factory=dict)
    _used: float = 0.0

    def __post_init__(self) -> None:
        self._last = self._read()

    @property
    def available(self) -> bool:
        """Whether this machine tells."""
        return bool(self._last)

    def joules(self) -> float | None:
        """Joules of all packages so far, None where the machine does not tell."""
        if not self._last:
            return None
        for folder, now in self._read().items():
            before = self._last.get(folder, now)
            wrapped = int((folder / "max_energy_range_uj").read_text()) if now < before else 0
            self._used += (now + wrapped - before) / 1e6
            self._last[folder] = now
        return self._used

    def _read(self) -> dict[Path, int]:
        """Microjoules of each package (its cores and memory controllers are inside it, so they are not added)."""
        found = {}
        for folder in sorted(self.root.glob("intel-rapl:*")):
            if folder.name.count(":") == 1:
                with suppress(OSError, ValueError):
                    found[folder] = int((folder / "energy_uj").read_text())
        return found
