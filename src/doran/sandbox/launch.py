"""Start a zygote in a sandbox: directly, or inside bubblewrap. The parent's side; runs no foreign code itself.

Which: bubblewrap where it is installed and we are not root (distributions that forbid namespaces to ordinary programs
allow them to it), else the direct way, which as root also gives up root for good. When neither works, SandboxError
says why. There is no third way: code is never run outside.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Literal

import doran
from doran.base.errors import DoranError

Backend = Literal["auto", "bwrap", "unshare"]
START_TIMEOUT_S = 30.0
_SOURCE = Path(doran.__file__).resolve().parents[1]
_MAIN = "import sys; sys.path.append(sys.argv[1]); from doran.sandbox.zygote import main; main(int(sys.argv[2]))"
_FLAGS = ["-s", "-S", "-P", "-B", "-X", "utf8", "-c", _MAIN]


class SandboxError(DoranError):
    """Code cannot be run in isolation here."""


def folders() -> tuple[list[str], list[str]]:
    """(the standard library's folders, the folders in them to be shown empty: installed packages)."""
    roots = {"installed_base": sys.base_prefix, "platbase": sys.base_exec_prefix}  # not the virtual environment's
    base = sorted({os.path.realpath(sysconfig.get_path(name, vars=roots)) for name in ("stdlib", "platstdlib")})
    return base, [f"{folder}/{name}" for folder in base for name in ("site-packages", "dist-packages")]


def start(backend: Backend, tmp_mb: int) -> tuple[subprocess.Popen[bytes], socket.socket, str]:
    """(process, control socket, backend) of a zygote that is ready. Raises SandboxError."""
    if not sys.platform.startswith("linux"):
        raise SandboxError(f"code is run in Linux namespaces, which {sys.platform} has not", hint="use Linux or WSL2")
    wanted = [backend] if backend != "auto" else ["unshare"] if os.geteuid() == 0 else ["bwrap", "unshare"]
    reasons = []
    for name in wanted:
        bwrap = shutil.which("bwrap")
        if name == "bwrap" and not bwrap:
            reasons.append("bwrap is not installed")
            continue
        read_only, covered = folders()
        settings = {"inside": name == "bwrap", "read_only": read_only, "covered": covered, "tmp_mb": tmp_mb}
        if name == "bwrap":
            assert bwrap
            command, visible = _bubblewrap(bwrap, tmp_mb)
        else:
            command, visible = [sys._base_executable, *_FLAGS, str(_SOURCE)], read_only  # type: ignore[attr-defined]
        try:
            return *_begin(command, {**settings, "visible": visible}), name
        except SandboxError as error:
            reasons.append(f"{name}: {error.message}")
    hint = "install bubblewrap, allow user namespaces (see docs/guides/rewards.md), or leave tasks with code out"
    raise SandboxError(f"code cannot be isolated here ({'; '.join(reasons)}), so none is run", hint=hint)


def _begin(command: list[str], settings: dict[str, object]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # the hash seed makes a program's sets come in the same order every time; no other variable goes in
    environment = {"PYTHONHASHSEED": "0", **_library_path()}
    with theirs:
        process = subprocess.Popen(
            [*command, str(theirs.fileno())], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env=environment, pass_fds=[theirs.fileno()], cwd="/",
        )  # fmt: skip
    ours.settimeout(START_TIMEOUT_S)
    try:
        ours.send(json.dumps(settings).encode())
        reply = json.loads(ours.recv(1 << 16) or b'{"refused": null}')
    except (OSError, ValueError):
        reply = {"refused": None}
    if "ready" in reply:
        assert process.stderr
        process.stderr.close()
        return process, ours
    ours.close()
    process.kill()
    said = process.communicate()[1].decode(errors="replace").strip().splitlines()
    raise SandboxError(reply["refused"] or (said[-1] if said else "the process ended at once"))


def _library_path() -> dict[str, str]:
    return {key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ}


def _bubblewrap(bwrap: str, tmp_mb: int) -> tuple[list[str], list[str]]:
    """(command, visible paths): nothing of the host but the interpreter, its libraries and this package (in /code)."""
    read_only, covered = folders()
    visible = [*read_only, *_loaded_files()]
    command = [bwrap, "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL",
               "--hostname", "sandbox", "--die-with-parent", "--new-session", "--as-pid-1"]  # fmt: skip
    for path in visible:
        command += ["--ro-bind", path, path]
    for part in ("__init__.py", "sandbox"):
        command += ["--ro-bind", str(_SOURCE / "doran" / part), f"/code/doran/{part}"]
    for path in covered:
        if os.path.isdir(path):
            command += ["--size", "4096", "--tmpfs", path, "--remount-ro", path]
    command += ["--size", str(tmp_mb << 20), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    return [*command, sys._base_executable, *_FLAGS, "/code"], [*visible, "/code"]  # type: ignore[attr-defined]


@lru_cache(maxsize=1)
def _loaded_files() -> list[str]:
    """The interpreter and every library it has open once the zygote's modules are loaded, as the loader names them."""
    probe = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "import ctypes as c, importlib\n"
        "from doran.sandbox import zygote\n"
        "for name in zygote.MODULES.split(): importlib.import_module(name)\n"
        "class Info(c.Structure): _fields_ = [('address', c.c_void_p), ('name', c.c_char_p)]\n"
        "show = c.CFUNCTYPE(c.c_int, c.POINTER(Info), c.c_size_t, c.c_void_p)(\n"
        "    lambda info, size, data: print((info[0].name or b'').decode()) or 0)\n"
        "c.CDLL(None).dl_iterate_phdr(show, None)\n"
    )
    command = [sys._base_executable, *_FLAGS[:-1], probe, str(_SOURCE)]  # type: ignore[attr-defined]
    names = subprocess.run(command, capture_output=True, text=True, env=_library_path(), check=True).stdout.split()
    base = folders()[0]
    libraries = {n for n in names if n.startswith("/") and not any(n.startswith(f + "/") for f in base)}
    return [sys._base_executable, *sorted(libraries)]  # type: ignore[attr-defined]
