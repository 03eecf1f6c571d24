"""The exceptions a user may meet, each with its exit code. Printing and exiting is done once, in `doran.cli.app`.

    DoranError 1
    ├── UsageError 2
    │   ├── ConfigError 2      a recipe, a config.json, an option value
    │   └── DataError 2        a user's data file: name the file and the line
    ├── CheckFailed 3          the command ran, and what it checked does not hold
    ├── OutOfMemory 4
    ├── BudgetReached 5        stopped at the asked-for time, cleanly
    ├── ArtifactError 1        missing, truncated or corrupt weight files and folders
    ├── NumericsError 1        NaN or inf in a loss
    └── Interrupted 130        Ctrl-C, after a clean checkpoint

To add one: subclass the nearest, give it an exit code from docs/design/architecture.md, and raise it with a message
that names the thing ("train.lr: got 'fast', expected a number") and a hint that names the mend ("write it as 3e-4").
Our own mistakes are `assert` or plain Python exceptions: they deserve the traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DoranError(Exception):
    """Something the user can mend. `str()` is one line: the message, then the hint after a semicolon."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = one_line(message)
        self.hint = one_line(hint) if hint else None
        super().__init__(message, hint)  # both, so that copies and process pools rebuild it

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(DoranError):
    """A wrong flag, or flags that do not go together."""

    exit_code = 2


class ConfigError(UsageError):
    """An unknown key, a wrong type or an impossible value in a recipe or config.json."""


class DataError(UsageError):
    """A line of the user's data that cannot be used; the message names file and line."""


class CheckFailed(DoranError):
    """The command worked, but what it was asked to check does not hold."""

    exit_code = 3


class OutOfMemory(DoranError):
    """Too little memory for what was asked."""

    exit_code = 4


class BudgetReached(DoranError):
    """The time or token budget is used up; the run can be continued."""

    exit_code = 5


class Interrupted(DoranError):
    """Stopped by the user, after a clean checkpoint."""

    exit_code = 130


class ArtifactError(DoranError):
    """A weight file or model folder that is missing, truncated or corrupt."""


class NumericsError(DoranError):
    """NaN or infinity where a number was due."""


def one_line(text: str) -> str:
    """`text` with every run of whitespace, line breaks included, made one space."""
    return " ".join(str(text).split())


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like `word`, or None when nothing is near; letter case is ignored."""
    lowered = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def suggest(word: str, choices: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest choice, or the list of all of them."""
    choices = list(choices)
    near = nearest(word, choices)
    return f"did you mean {near}?" if near else f"choose one of: {', '.join(choices) or '(none)'}"
