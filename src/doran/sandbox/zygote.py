"""The process that waits inside the sandbox with the interpreter warm and forks for every run. Judges nothing.

It sees limits and descriptors, never code or tests: those go from the parent straight to the forked process, so nothing
of one run is left in memory that the next is forked from. One run at a time; after it, every other process of the
namespace is killed and /tmp emptied.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from doran.sandbox import guest, isolate
from doran.sandbox.seccomp import Filter

MODULES = """
abc array ast base64 binascii bisect bz2 calendar cmath codecs collections collections.abc contextlib copy csv
dataclasses datetime decimal difflib enum fractions functools hashlib heapq hmac html io itertools json keyword locale
lzma math numbers operator pprint queue random re secrets statistics string struct textwrap threading time traceback
types typing unicodedata uuid warnings weakref zlib
"""
"""Loaded once, before the host's files go away: what programs ask for most, and all that needs a shared library."""


def main(descriptor: int) -> None:
    """Get ready, say so, and serve until the control socket closes."""
    control = socket.socket(fileno=descriptor)
    settings = json.loads(control.recv(1 << 16))
    try:
        for name in MODULES.split():
            importlib.import_module(name)
        seal = Filter()
        if settings["inside"]:  # bubblewrap has done it
            isolate.harden()
        else:
            isolate.enter(settings["read_only"], settings["covered"], settings["tmp_mb"])
        isolate.verify(settings["visible"])
        os.environ.clear()
        sys.path = [path for path in sys.path if any(path.startswith(p) for p in settings["read_only"])]
        _try_filter(seal)
    except OSError as error:
        control.send(json.dumps({"refused": str(error.strerror or error)}).encode())
        return
    gc.collect()
    gc.freeze()  # nothing that is here now is touched by collections in the children
    control.send(json.dumps({"ready": True}).encode())
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1 << 16, 2)
        if not message:
            return
        request = json.loads(message)
        if request["do"] == "kill":  # of a run that had just ended
            continue
        report = _run(request, fds, control, seal)
        clean = _empty("/tmp")
        control.send(json.dumps({**report, "leaving": not clean}).encode())
        if not clean:
            return


def _try_filter(seal: Filter) -> None:
    """OSError unless a child under the filter is really refused a socket."""
    child = os.fork()
    if not child:
        try:
            seal.apply()
            socket.socket()
        except PermissionError:
            os._exit(0)
        except OSError:
            os._exit(2)
        os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise OSError(0, "seccomp: the system call filter does not work here")


def _run(request: dict[str, Any], fds: list[int], control: socket.socket, seal: Filter) -> dict[str, Any]:
    """Fork for one run, wait for its end, the time limit or the parent's word, kill what is left, report."""
    limits, children = request["limits"], list[int]()
    first, second = fds
    if request["do"] == "run":
        children.append(_fork(lambda: guest.confine(first, first, second, None, limits, seal), guest.run_program))
    else:
        mine, theirs = socket.socketpair()
        a, b = mine.fileno(), theirs.fileno()
        children.append(_fork(lambda: guest.confine(first, first, first, a, limits, seal), guest.answer_for_code))
        children.append(_fork(lambda: guest.confine(second, second, second, b, limits, seal), guest.hold_tests))
        mine.close()
        theirs.close()
    for fd in fds:
        os.close(fd)
    began = time.monotonic()
    why = _wait(children[-1], control, limits["wall_s"])
    seconds = time.monotonic() - began
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    statuses, cpu = {}, 0.0
    while True:
        try:
            child, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            break
        statuses[child] = os.waitstatus_to_exitcode(status)
        cpu += usage.ru_utime + usage.ru_stime
    return {"why": why, "exit": statuses.get(children[0]), "seconds": seconds, "cpu": cpu}


def _fork(prepare: Callable[[], None], work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        prepare()
        work()
    finally:  # whatever happens, a child never returns into the zygote's loop
        os._exit(70)


def _wait(child: int, control: socket.socket, wall_s: float) -> str:
    """What came first: "ended", "timeout" or "killed" by the parent (whose end is a kill too)."""
    waiter = select.poll()
    end = os.pidfd_open(child)
    try:
        waiter.register(end, select.POLLIN)
        waiter.register(control, select.POLLIN)
        ready = dict(waiter.poll(wall_s * 1000))
    finally:
        os.close(end)
    if end in ready:
        return "ended"
    return "killed" if ready else "timeout"


def _empty(folder: str) -> bool:
    """Remove what a run left. What resists (a folder nobody may enter) ends this zygote; the parent starts another."""
    try:
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
    except (OSError, RecursionError):
        return False
    return True
