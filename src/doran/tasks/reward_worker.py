"""The child process that runs a user's reward function: one JSON request a line in, one reply a line out.

Runs as a script; imports nothing of doran. Its parent (reward_file.py) holds the clock. The user's file is trusted as
any program of theirs is: this process bounds time and memory, it is no sandbox.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

PER_COMPLETION = ("prompt", "completion", "answer", "reply", "thought", "language", "meta")


def load(path: str, name: str) -> Callable[..., Any]:
    """The function `name` of a file, with the file's folder on the import path."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    spec = importlib.util.spec_from_file_location("user_reward", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["user_reward"] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise AttributeError(f"it defines no function {name}")
    return function  # type: ignore[no-any-return]


def asks_for(function: Callable[..., Any]) -> tuple[bool, list[str]]:
    """(takes lists as TRL's reward functions do, the names it wants). ValueError for a parameter nobody gives."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if "completions" in names:
        return True, names
    unknown = [p.name for p in parameters if p.name in names and p.name not in PER_COMPLETION and p.default is p.empty]
    if unknown:
        raise ValueError(f"it wants {unknown[0]}; it may ask for {', '.join(PER_COMPLETION)}, or for completions")
    return False, [name for name in names if name in PER_COMPLETION]


def described(error: BaseException) -> str:
    """The error and the user's line."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    place = f" ({os.path.basename(lines[-1].filename)}, line {lines[-1].lineno})" if lines else ""
    return f"{type(error).__name__}: {error}{place}"[:500]


def answer(function: Callable[..., Any], many: bool, names: list[str], cases: list[dict[str, Any]]) -> Any:
    """The number for one case, or a list of numbers for many."""
    if not many:
        return function(**{name: cases[0][name] for name in names})
    lists: dict[str, list[Any]] = {key: [case[key] for case in cases] for key in PER_COMPLETION}
    lists |= {f"{key}s": lists[key] for key in ("prompt", "completion", "answer")}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
    return function(**{key: value for key, value in lists.items() if takes_any or key in names})


def main(memory_mb: int, path: str, name: str) -> None:
    """Load, say ready (and whether the function takes lists), then answer until the pipe closes."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the user prints goes to stderr, not into the replies
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    except (ImportError, ValueError):  # no such limit here; the clock still holds
        pass
    try:
        function = load(path, name)
        many, names = asks_for(function)
    except Exception as error:
        print(json.dumps({"refused": described(error)}), file=out, flush=True)
        return
    print(json.dumps({"ready": True, "many": many}), file=out, flush=True)
    for line in sys.stdin:
        try:
            value = answer(function, many, names, json.loads(line))
            reply = {"value": [plain(v) for v in value] if many else plain(value)}
        except MemoryError:
            raise SystemExit(1) from None
        except Exception as error:
            reply = {"error": described(error)}
        print(json.dumps(reply), file=out, flush=True)


def plain(value: Any) -> Any:
    """A number as JSON has it; anything else as the text of it, which the parent refuses."""
    if value is None or isinstance(value, bool | int | float):
        return value
    item = getattr(value, "item", None)  # a tensor's or an array's only number
    try:
        return float(item()) if callable(item) else repr(value)[:80]
    except (TypeError, ValueError, RuntimeError):
        return repr(value)[:80]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
