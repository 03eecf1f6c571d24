"""The system call filter of the sandbox: a list of what a computing program needs; all else fails with EPERM.

Not here: namespaces (isolate.py). What the list leaves out on purpose: sockets, new processes and programs, signals to
others, ptrace and its like, mounts, new namespaces, keys, shared memory outside the address space, ioctl.
Numbers are those of the kernel's headers; a test compares them where the headers are installed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

# fmt: off
X86_64 = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16,
    "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21, "pipe": 22, "select": 23, "sched_yield": 24,
    "mremap": 25, "madvise": 28, "dup": 32, "dup2": 33, "nanosleep": 35, "getitimer": 36, "alarm": 37, "setitimer": 38,
    "getpid": 39, "clone": 56, "exit": 60, "uname": 63, "fcntl": 72, "flock": 73, "fsync": 74, "ftruncate": 77,
    "getcwd": 79, "chdir": 80, "rename": 82, "mkdir": 83, "rmdir": 84, "unlink": 87, "readlink": 89, "umask": 95,
    "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104,
    "geteuid": 107, "getegid": 108, "getppid": 110, "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202,
    "sched_getaffinity": 204, "getdents64": 217, "set_tid_address": 218, "restart_syscall": 219, "fadvise64": 221,
    "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "openat": 257,
    "mkdirat": 258, "newfstatat": 262, "unlinkat": 263, "renameat": 264, "readlinkat": 267, "faccessat": 269,
    "pselect6": 270, "ppoll": 271, "set_robust_list": 273, "dup3": 292, "pipe2": 293, "prlimit64": 302,
    "renameat2": 316, "getrandom": 318, "statx": 332, "rseq": 334, "clone3": 435, "faccessat2": 439,
}
AARCH64 = {
    "getcwd": 17, "dup": 23, "dup3": 24, "fcntl": 25, "ioctl": 29, "flock": 32, "mkdirat": 34, "unlinkat": 35,
    "renameat": 38, "ftruncate": 46, "faccessat": 48, "chdir": 49, "openat": 56, "close": 57, "pipe2": 59,
    "getdents64": 61, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68,
    "pselect6": 72, "ppoll": 73, "readlinkat": 78, "newfstatat": 79, "fstat": 80, "fsync": 82, "exit": 93,
    "exit_group": 94, "set_tid_address": 96, "futex": 98, "set_robust_list": 99, "nanosleep": 101, "getitimer": 102,
    "setitimer": 103, "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "sched_getaffinity": 123,
    "sched_yield": 124, "restart_syscall": 128, "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135,
    "rt_sigreturn": 139, "times": 153, "uname": 160, "getrlimit": 163, "getrusage": 165, "umask": 166,
    "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177,
    "gettid": 178, "sysinfo": 179, "brk": 214, "munmap": 215, "mremap": 216, "clone": 220, "mmap": 222,
    "fadvise64": 223, "mprotect": 226, "madvise": 233, "prlimit64": 261, "renameat2": 276, "getrandom": 278,
    "statx": 291, "rseq": 293, "clone3": 435, "faccessat2": 439,
}
# fmt: on
MACHINES = {"x86_64": (0xC000003E, X86_64), "aarch64": (0xC00000B7, AARCH64)}
"""Machine -> (AUDIT_ARCH number, system calls)."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARG0 = 0, 4, 16  # offsets in struct seccomp_data; the low half of the first argument
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000


def program(machine: str) -> bytes:
    """The filter for a machine, as an array of struct sock_filter. KeyError for a machine without a list."""
    arch, calls = MACHINES[machine]
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL),
    ]  # fmt: skip
    special = {
        # a thread of this process, yes; another process, no. glibc tries clone3 first and falls back where it is absent
        "clone": [(_LOAD, 0, 0, _ARG0), (_ANY_BIT, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, _ALLOW)],
        "clone3": [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)],
        # its own limits only (process 0), which it can lower but not raise
        "prlimit64": [(_LOAD, 0, 0, _ARG0), (_EQUAL, 0, 1, 0), (_RETURN, 0, 0, _ALLOW)],
        # Python asks whether a file is a terminal, and falls back where this is "not a terminal"
        "ioctl": [(_RETURN, 0, 0, _ERRNO | errno.ENOTTY)],
    }
    for name, number in calls.items():
        block = special.get(name, [(_RETURN, 0, 0, _ALLOW)])
        if block[-1][3] == _ALLOW and len(block) > 1:
            block = [*block, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
        code += [(_EQUAL, 0, len(block), number), *block]
    code.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
    return b"".join(struct.pack("HBBI", *line) for line in code)


class Filter:
    """The filter made ready, so that a forked child has one call to make."""

    def __init__(self) -> None:
        machine = platform.machine()
        if machine not in MACHINES:
            raise OSError(errno.ENOSYS, f"no system call list for {machine}")
        self._code = ctypes.create_string_buffer(program(machine))
        count = (len(self._code) - 1) // 8
        self._head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", count, ctypes.addressof(self._code)))
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl

    def apply(self) -> None:
        """Bind this process (one thread) to it for good. OSError where the kernel has no such filters."""
        no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
        if self._prctl(no_new_privileges, 1, 0, 0, 0) or self._prctl(
            set_seccomp, mode_filter, ctypes.c_void_p(ctypes.addressof(self._head)), 0, 0
        ):
            code = ctypes.get_errno()
            raise OSError(code, f"seccomp: {os.strerror(code)}")
