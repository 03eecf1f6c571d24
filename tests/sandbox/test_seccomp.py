"""The system call lists against the kernel's headers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from doran.sandbox.seccomp import AARCH64, MACHINES, X86_64, program

HEADERS = [("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", X86_64), ("/usr/include/asm-generic/unistd.h", AARCH64)]
GENERIC = {"newfstatat": "fstatat"}


@pytest.mark.parametrize(("header", "calls"), HEADERS, ids=["x86_64", "aarch64"])
def test_numbers_are_the_kernels(header: str, calls: dict[str, int]) -> None:
    if not Path(header).is_file():
        pytest.skip(f"{header} is not installed (linux-libc-dev)")
    text = Path(header).read_text()
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    for name, number in calls.items():
        assert numbers.get(name, numbers.get(GENERIC.get(name, name))) == number, name


@pytest.mark.parametrize("machine", MACHINES)
def test_dangerous_calls_are_on_no_list_and_the_filter_is_whole(machine: str) -> None:
    calls = MACHINES[machine][1]
    dangerous = ("socket connect fork vfork execve kill tkill tgkill ptrace process_vm_readv pidfd_getfd mount "
                 "unshare setns bpf io_uring_setup memfd_create shmget keyctl prctl perf_event_open userfaultfd")
    assert not set(dangerous.split()) & calls.keys()
    code = program(machine)
    assert len(code) % 8 == 0 and len(code) // 8 < 4096
    for place in range(0, len(code), 8):  # no jump leaves the program
        assert place // 8 + max(code[place + 2], code[place + 3]) < len(code) // 8
