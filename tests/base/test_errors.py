"""The exception tree: exit codes, one-line messages, name suggestions."""

from __future__ import annotations

import copy
import pickle

import pytest

from doran.base import errors


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("DoranError", 1),
        ("ArtifactError", 1),
        ("NumericsError", 1),
        ("UsageError", 2),
        ("ConfigError", 2),
        ("DataError", 2),
        ("CheckFailed", 3),
        ("OutOfMemory", 4),
        ("BudgetReached", 5),
        ("Interrupted", 130),
    ],
)
def test_each_class_has_the_exit_code_of_the_design_page(name: str, code: int) -> None:
    cls = getattr(errors, name)
    assert cls.exit_code == code and issubclass(cls, errors.DoranError)


def test_text_is_one_line_with_the_hint() -> None:
    error = errors.DoranError("a.json:\n  broken", hint="copy\nit again")
    assert str(error) == "a.json: broken; copy it again"
    assert (error.message, error.hint) == ("a.json: broken", "copy it again")
    assert str(errors.DoranError("plain")) == "plain"


def test_errors_survive_copying_and_process_pools() -> None:
    error = errors.ConfigError("a", hint="b")
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(twin), str(twin)) == (errors.ConfigError, "a; b")


def test_nearest_ignores_case_and_refuses_far_names() -> None:
    assert errors.nearest("CountDown", ["countdown", "arithmetic"]) == "countdown"
    assert errors.nearest("xyz", ["countdown"]) is None
    assert errors.suggest("xyz", ["a", "b"]) == "choose one of: a, b"
    assert errors.suggest("countdwn", ["countdown"]) == "did you mean countdown?"
