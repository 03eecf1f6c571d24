"""A single verb's meter over several starts, and the receipt that it leaves once."""

from __future__ import annotations

from pathlib import Path

import pytest

from doran.base.errors import BudgetReached, UsageError
from doran.base.files import read_json, sha256_file, write_json
from doran.plan.meter import Spent
from doran.recipes.ledger import spent_in
from doran.recipes.single import metered


@pytest.fixture(autouse=True)
def no_saved_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


def test_starts_add_up_and_the_receipt_comes_at_the_end(tmp_path: Path) -> None:
    write_json(tmp_path / "seconds.json", Spent(100.0, 6500.0, False).as_dict())
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n")
    with pytest.raises(KeyError), metered(tmp_path, "sft", 7, None, {"data": data}):
        raise KeyError
    assert spent_in(tmp_path).seconds >= 100 and not (tmp_path / "receipt.json").exists()
    with metered(tmp_path, "sft", 7, None, {"data": data}) as meter:
        assert meter.so_far().seconds >= 100 and meter.keep is not None
    receipt = read_json(tmp_path / "receipt.json")
    assert receipt["stage"] == "sft" and receipt["seconds"] >= 100 and receipt["seed"] == 7
    assert receipt["inputs_sha256"] == {"data": {"data.jsonl": sha256_file(data)}}


def test_a_used_up_budget_stops_before_the_work_unless_it_is_finished(tmp_path: Path) -> None:
    write_json(tmp_path / "seconds.json", Spent(7201.0).as_dict())
    with pytest.raises(BudgetReached), metered(tmp_path, "rl", 0, "2 hours", {}):
        raise AssertionError("the block must not run")
    write_json(tmp_path / "receipt.json", {"stage": "rl"})
    with metered(tmp_path, "rl", 0, "2 hours", {}):
        pass
    assert read_json(tmp_path / "receipt.json") == {"stage": "rl"} and spent_in(tmp_path).seconds == 7201


def test_a_budget_that_is_no_amount_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bananas"), metered(tmp_path, "rl", 0, "3 bananas", {}):
        pass
