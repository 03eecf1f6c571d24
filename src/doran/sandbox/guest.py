"""What the forked processes do: run a program, answer for the code on trial, or hold the tests.

Not here: forking and killing (zygote.py). Code and tests never share a process: the tests ask over a pipe for calls and
get plain values back (values.py), so the code can neither read what is expected of it nor declare itself right.
Nothing here trusts the other side of a pipe.
"""

from __future__ import annotations

import builtins
import json
import os
import random
import resource
import sys
import traceback
import types
from functools import partial
from typing import Any, NoReturn

from doran.sandbox import values

_LINK = 3  # the descriptor between the code and its tests
MAX_LINE = 8_000_000


def confine(stdin: int, stdout: int, stderr: int, link: int | None, limits: dict[str, float], seal: Any) -> None:
    """Keep these descriptors and no others, set the limits, apply the filter `seal`."""
    kept = [os.dup(fd) for fd in (stdin, stdout, stderr, *(() if link is None else (link,)))]
    kept = [os.dup(fd) if fd < 4 else fd for fd in kept]  # out of the way of the numbers to be filled
    for number, fd in enumerate(kept):
        os.dup2(fd, number)
    os.closerange(len(kept), 1024)
    megabyte = 1 << 20
    cpu = int(limits["wall_s"]) + 2
    for what, amount in (
        (resource.RLIMIT_AS, int(limits["memory_mb"]) * megabyte),
        (resource.RLIMIT_FSIZE, int(limits["tmp_mb"]) * megabyte),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, int(limits["threads"])),
        (resource.RLIMIT_STACK, 8 * megabyte),
    ):
        resource.setrlimit(what, (amount, amount))
    seal.apply()
    random.seed(0)


def _frame(fd: int, size: int) -> bytes:
    """Exactly `size` bytes."""
    pieces = []
    while size:
        piece = os.read(fd, min(size, 1 << 16))
        if not piece:
            raise EOFError
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _source() -> str:
    """The code: its length in 8 bytes, then itself."""
    return _frame(0, int.from_bytes(_frame(0, 8), "big")).decode("utf-8", "replace")


def _module(name: str) -> dict[str, Any]:
    module = types.ModuleType(name)
    sys.modules[name] = module
    sys.argv = ["program"]
    return module.__dict__


def run_program() -> NoReturn:
    """The code as a script: what follows it on descriptor 0 is its standard input."""
    status = 1
    try:
        source = _source()
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8", errors="replace", closefd=False) for n in (1, 2))
        exec(compile(source, "program.py", "exec"), _module("__main__"))
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc(limit=-8)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                status = status or 1
        os._exit(status & 0xFF)


class _Link:
    """Lines of JSON between the two processes."""

    def __init__(self) -> None:
        self.rest = b""

    def send(self, message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(_LINK, data) :]

    def receive(self) -> Any:
        """The next line. EOFError at the end, ValueError for what is no JSON or too long."""
        while b"\n" not in self.rest:
            piece = os.read(_LINK, 1 << 16)
            if not piece:
                raise EOFError
            self.rest += piece
            if len(self.rest) > MAX_LINE:
                raise ValueError("too long")
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line)


def answer_for_code() -> NoReturn:
    """The code on trial: run it, then do the calls that the tests ask for, until they are over."""
    link, kept = _Link(), list[Any]()

    def keep(thing: Any) -> int:
        kept.append(thing)
        return len(kept) - 1

    try:
        source = _source()
        names = _module("solution")
        exec(compile(source, "solution.py", "exec"), names)
        link.send({"ready": True})
        while True:
            link.send(_answer(link.receive(), names, kept, keep))
    except EOFError:
        os._exit(0)
    except BaseException as error:
        link.send({"error": _describe(error), "type": type(error).__name__})
        os._exit(1)


def _answer(ask: dict[str, Any], names: dict[str, Any], kept: list[Any], keep: Any) -> dict[str, Any]:
    """{"value": text} or {"error": text, "type": name of the exception}; changed arguments go along."""
    try:
        args, named = (values.loads(ask[part], kept.__getitem__) for part in ("args", "named"))
        thing = names[ask["name"]] if "name" in ask else kept[ask["of"]]
        before = ask["args"]
        act = {"call": thing, "get": partial(getattr, thing), "set": partial(setattr, thing)}[ask["do"]]
        value = act(*args, **named)
        reply = {"value": values.dumps(value, keep)}
        after = values.dumps(args, keep) if ask["do"] == "call" and ask["plain"] else before
        return reply if after == before else {**reply, "args": after}
    except KeyError as error:
        if "name" in ask and ask["name"] not in names:
            return {"error": f"the code defines no {ask['name']}", "type": "NameError"}
        return {"error": _describe(error), "type": "KeyError"}
    except Exception as error:
        return {"error": _describe(error), "type": type(error).__name__}


def _describe(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # an exception of the code's own making
        text = type(error).__name__
    return " ".join(text[:300].split())


class CodeFailed(Exception):
    """The code on trial raised something that is no built-in exception, or is gone."""


class _Remote:
    """The tests' side of the link."""

    def __init__(self) -> None:
        self.link, self.handles = _Link(), dict[int, values.Handle]()

    def handle(self, number: int) -> values.Handle:
        """One handle for one object, so that it equals itself."""
        return self.handles.setdefault(number, values.Handle(number, self.ask))

    def ask(self, do: str, of: values.Handle | str, *args: Any, **named: Any) -> Any:
        """Call, get or set over there; the value, or the exception raised here."""
        target = {"name": of} if isinstance(of, str) else {"of": of.number_}
        sent = values.dumps(list(args))
        plain = '["handle"' not in sent and '["iterator"' not in sent
        self.link.send({"do": do, **target, "args": sent, "named": values.dumps(named), "plain": plain})
        reply = self.read()
        if isinstance(reply.get("args"), str):  # sorted in place, say
            for mine, theirs in zip(args, values.loads(reply["args"], self.handle)):
                _copy_into(mine, theirs)
        return values.loads(str(reply.get("value")), self.handle)

    def read(self) -> dict[str, Any]:
        """A reply that is no error. Raises what the code raised."""
        try:
            reply = self.link.receive()
        except (EOFError, OSError):
            raise CodeFailed("the code ended its process") from None
        except (ValueError, RecursionError):
            raise CodeFailed("the code broke the link") from None
        if not isinstance(reply, dict):
            raise CodeFailed("the code broke the link")
        if "error" in reply:
            kind = getattr(builtins, str(reply.get("type")), None)
            text = str(reply["error"])[:300]
            if isinstance(kind, type) and issubclass(kind, Exception) and kind is not AssertionError:
                try:
                    raised = kind(text.partition(": ")[2])
                except TypeError:  # UnicodeDecodeError and the like want more
                    raise CodeFailed(text) from None
                raised.add_note("in the code")
                raise raised
            raise CodeFailed(text)
        return reply


def _copy_into(mine: Any, theirs: Any) -> None:
    if isinstance(mine, list) and isinstance(theirs, list):
        mine[:] = theirs
    elif isinstance(mine, dict) and isinstance(theirs, dict) or isinstance(mine, set) and isinstance(theirs, set):
        mine.clear()
        mine.update(theirs)


def hold_tests() -> NoReturn:
    """Run each test against the code over there and write the verdict: {"passed", "total", "error"}."""
    verdict: dict[str, Any] = {"passed": 0, "total": 0, "error": None}
    try:
        tests = json.loads(_source())
        verdict["total"] = len(tests["tests"])
        remote = _Remote()
        remote.read()  # the code has run
        names = _module("tests")
        exec(tests["prelude"], names)
        names.update({name: _entry(remote, name) for name in tests["names"]})
        exec(tests["setup"], names)
        for test in tests["tests"]:
            try:
                exec(test, names)
                verdict["passed"] += 1
            except Exception as error:
                verdict["error"] = verdict["error"] or _describe(error)
                if isinstance(error, CodeFailed):
                    break
    except BaseException as error:
        verdict["error"] = verdict["error"] or _describe(error)
    data = json.dumps(verdict).encode()
    while data:
        data = data[os.write(1, data) :]
    os._exit(0)


def _entry(remote: _Remote, name: str) -> Any:
    def call(*args: Any, **named: Any) -> Any:
        return remote.ask("call", name, *args, **named)

    call.__name__ = name
    return call
