"""The two ordeals of bench/ in small: whatever clients do, slots and blocks come back and nothing is a 5xx."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def abuse(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    import serve_abuse

    yield serve_abuse
    sys.modules.pop("serve_abuse", None)


def test_broken_requests_and_cut_streams_leave_nothing_behind(running: Any, abuse: Any) -> None:
    assert running.settled()
    before = abuse.gauges(running.url)
    assert before["doran_free_slots"] == 8 and before["doran_pending"] == 0
    outcomes = abuse.abuse(running.url, "tiny", 80, threads=4)
    assert sum(outcomes.values()) == 80 and not [o for o in outcomes if o.startswith("5")], outcomes
    assert outcomes["400"] and outcomes["cut"]
    assert abuse.settled(running.url, before) == before
