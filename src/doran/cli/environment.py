"""`--environment FILE.py:NAME`: a user's environment for RL rollouts, loaded from their own Python file.

NAME is called with the tokenizer and gives what talks with the model (train/samples.Environment). Unlike a reward
function, which gets a process of its own, it runs inside the trainer: it is asked between every two turns.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from doran.base.errors import DoranError, UsageError, suggest

if TYPE_CHECKING:
    from doran.text.tokenizer import Tokenizer
    from doran.train.samples import Environment

EnvironmentFile = Annotated[
    str | None,
    typer.Option(
        "--environment", metavar="FILE.py:NAME", help="Your tool or game: it answers the model between its turns."
    ),
]


def load_environment(spec: str, tokenizer: Tokenizer) -> Environment:
    """NAME(tokenizer) of FILE.py. UsageError: not of that form, no such file or name, or no environment."""
    path, _, name = spec.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise UsageError(f"--environment {spec}: no file and name", hint="write tools.py:Calculator")
    if not Path(path).is_file():
        raise UsageError(f"--environment {spec}: {path}: no such file", hint="check the path")
    module = _module(Path(path))
    if not hasattr(module, name):
        names = [n for n, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise UsageError(f"--environment {spec}: {path} has no {name}", hint=suggest(name, names))
    try:
        made: Environment = getattr(module, name)(tokenizer)
        stops = tuple(int(i) for i in made.stop_token_ids)
        ready = callable(made.begin)
    except Exception as error:  # a user's code may raise anything
        raise UsageError(
            f"--environment {spec}: {type(error).__name__}: {error}",
            hint=f"{name}(tokenizer) must give an object with stop_token_ids and begin(item)",
        ) from error
    wrong = [i for i in stops if not 0 <= i < tokenizer.vocab_size]
    if wrong or not ready:
        what = f"stop_token_ids has {wrong[0]}, which is no token" if wrong else "begin is no function"
        raise UsageError(f"--environment {spec}: {what}", hint="see examples/calculator_tool.py")
    return made


def _module(path: Path) -> ModuleType:
    """The file as a module; it may import its neighbours."""
    spec = importlib.util.spec_from_file_location(f"environment_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.append(str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise DoranError(f"{path}: {type(error).__name__}: {error}", hint="mend the file") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module
