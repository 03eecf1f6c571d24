"""Put this process into namespaces of its own, with an empty root, no capabilities and no way back.

Not here: bubblewrap, which does the same from outside (launch.py), and the filter each program gets (seccomp.py).
The steps are the usual ones (user_namespaces(7), pivot_root(2)). Everything that fails raises OSError with the step's
name, and `verify` looks at the result with other means than those that made it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import struct

NOBODY = 65534

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,
)  # fmt: skip
_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_NO_NEW_PRIVS = 1, 4, 24, 38
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _call(step: str, result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{step}: {os.strerror(code)}")


def _mount(step: str, source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    names = [None if text is None else text.encode() for text in (source, target, kind)]
    _call(step, _libc.mount(*names, ctypes.c_ulong(flags), None if data is None else data.encode()))


def enter(read_only: list[str], covered: list[str], tmp_mb: int) -> None:
    """Leave the host. Returns in a new process, which is process 1 of its namespace; the old one waits for it.

    `read_only`: folders that stay visible under their own paths; `covered`: folders inside them shown empty;
    /tmp holds at most `tmp_mb` MiB.
    """
    spaces = _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS | _NEWCGROUP
    uid, gid = os.geteuid(), os.getegid()
    as_root = uid == 0 and _libc.unshare(spaces) == 0
    if not as_root:
        _call("unshare", _libc.unshare(spaces | _NEWUSER))
        for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    child = os.fork()
    if child:
        _wait_for(child)
    _make_root(read_only, covered, tmp_mb)
    _call("hostname", _libc.sethostname(b"sandbox", 7))
    if as_root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        for capability in range(64):
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    harden()


def _wait_for(child: int) -> None:
    """The process outside: it leaves with process 1, and process 1 leaves with it (PDEATHSIG)."""
    os.closerange(0, 1024)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _make_root(read_only: list[str], covered: list[str], tmp_mb: int) -> None:
    """A tmpfs as root with nothing in it but `read_only` and an empty /tmp."""
    _mount("private mounts", "none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("root", "tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    os.chdir("/tmp")
    os.mkdir("old")
    _call("pivot_root", _libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"old"))
    os.chdir("/")
    for path in read_only:
        os.makedirs(path, exist_ok=True)
        _mount(f"bind {path}", "/old" + path, path, None, _MS_BIND)
        flags = os.statvfs(path).f_flag & (_MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
        again = _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV
        _mount(f"read-only {path}", "none", path, None, again | flags)
    for path in covered:
        if os.path.isdir(path):
            _mount(f"cover {path}", "tmpfs", path, "tmpfs", _MS_RDONLY | _MS_NOSUID | _MS_NODEV, "size=4k")
    os.mkdir("/tmp")
    _mount("/tmp", "tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={tmp_mb}m,nr_inodes=1024,mode=1777")
    _call("leave the old root", _libc.umount2(b"/old", _DETACH))
    os.rmdir("/old")
    _mount("read-only root", "none", "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    os.chdir("/tmp")


def harden() -> None:
    """No capabilities, none to be had, no core dumps, nobody may look in; gone when the parent is."""
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # EPERM where there was nothing to drop from
    head, data = struct.pack("II", 0x20080522, 0), struct.pack("6I", *[0] * 6)
    _call("capset", _libc.capset(head, data))
    _call("no_new_privs", _libc.prctl(_PR_NO_NEW_PRIVS, 1, 0, 0, 0))
    _call("dumpable", _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    _call("pdeathsig", _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)  # process 1 then gets none of them from inside


def verify(read_only: list[str]) -> None:
    """Raise OSError unless this really is a sandbox: process 1, no capabilities, only the folders asked for."""
    data = ctypes.create_string_buffer(24)
    _call("capget", _libc.capget(struct.pack("II", 0x20080522, 0), data))
    allowed = {path.split("/")[1] for path in read_only} | {"tmp"}
    found = set(os.listdir("/"))
    wrong = [
        ("not process 1", os.getpid() != 1),
        ("capabilities are left", any(data.raw)),
        (f"files of the host are visible: {sorted(found - allowed)}", not found <= allowed),
        ("there is a way to write outside /tmp", any(os.access(path, os.W_OK) for path in ("/", *read_only))),
    ]
    for what, is_so in wrong:
        if is_so:
            raise OSError(errno.EPERM, f"isolation incomplete: {what}")
