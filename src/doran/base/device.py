"""Facts about this machine, measured or read from /proc. No tuning and no policy: callers decide what to do with them.

Torch is imported inside the functions that need it, so that `doran --help` does not wait for it. Memory is in bytes.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import platform
import random
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def num_threads() -> int:
    """How many threads torch uses inside one operation."""
    import torch

    return torch.get_num_threads()


def set_threads(count: int) -> None:
    """Use `count` threads inside one operation; results of sums may differ in the last bits between counts."""
    import torch

    torch.set_num_threads(count)
    _matmul_peak.cache_clear()  # the peak belongs to a thread count


def usable_cores() -> int:
    """Cores this process may run on (its affinity, not what the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that can still be used without swapping: the least of /proc/meminfo and every cgroup above this process."""
    limits = [_meminfo("MemAvailable")]
    for folder in _cgroup_folders():
        with suppress(OSError, ValueError):
            limits.append(_cgroup_room(folder))
    return max(0, min(limits))


def total_memory() -> int:
    """Bytes of memory in this machine."""
    return _meminfo("MemTotal")


def peak_rss() -> int:
    """The most memory this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def release_memory() -> None:
    """Give freed memory back to the system: glibc keeps what a stage has freed, and stages would add up.

    Elsewhere than on Linux with glibc only Python's own garbage is collected.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def matmul_peak(dtype: str | torch.dtype = "float32") -> float:
    """Measured FLOP/s of a square matrix product in `dtype` ("float32" or "bfloat16"), best of about 0.4 seconds.

    Kept for the life of the process. This is the 100% that MFU is a share of.
    """
    return _matmul_peak(str(dtype).removeprefix("torch."))


@functools.cache
def _matmul_peak(dtype: str) -> float:
    import torch

    size = 1024
    a_NN = torch.ones(size, size).to(getattr(torch, dtype))
    b_NN = torch.ones(size, size).to(getattr(torch, dtype))
    best, started = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - started < 0.4:
        before = time.perf_counter()
        torch.mm(a_NN, b_NN)
        best = min(best, time.perf_counter() - before)
    return 2 * size**3 / best


def memory_bandwidth() -> float:
    """Measured bytes/s of adding two large arrays into a third (two read, one written), best of about 0.3 seconds."""
    import torch

    a_N, b_N, out_N = (torch.ones(1 << 24) for _ in range(3))  # 64 MiB each: larger than most caches
    seconds = _best_of(lambda: torch.add(a_N, b_N, out=out_N), 0.3)
    return 3 * 4 * a_N.numel() / seconds


def disk_bandwidth(folder: Path, size: int = 1 << 28, threads: int = 4) -> float:
    """Measured bytes/s of reading pieces of 4 MiB in random order, by several threads, with nothing in the page cache:
    of the folder's largest safetensors file, or of a file of `size` bytes that is written there and removed.

    OSError: nothing can be written. A disk behind a virtual machine may have caches of its own that this cannot empty.
    """
    found = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size, default=None)
    if found is not None and found.stat().st_size >= size:
        return _read_speed(found, size, threads)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doran-disk-") as file:
        for _ in range(size >> 22):
            file.write(os.urandom(1 << 22))
        file.flush()
        os.fsync(file.fileno())
        return _read_speed(Path(file.name), size, threads)


def _read_speed(path: Path, size: int, threads: int) -> float:
    """Bytes/s over `size` bytes of a file, in pieces."""
    piece = 1 << 22
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        starts = [i * piece for i in range(size // piece)]
        random.Random(0).shuffle(starts)

        def read(some: list[int]) -> None:
            buffer = bytearray(piece)
            for start in some:
                os.preadv(descriptor, [buffer], start)

        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, [starts[i::threads] for i in range(threads)]))
        return len(starts) * piece / (time.perf_counter() - began)
    finally:
        os.close(descriptor)


def op_seconds() -> float:
    """Measured fixed cost of one torch operation on tensors too small to matter, autograd included."""
    import torch

    a_N = torch.ones(8, 8, requires_grad=True)

    def chain() -> None:
        x = a_N
        for _ in range(100):
            x = x * 1.0
        x.sum().backward()

    return _best_of(chain, 0.2) / 200


def _best_of(work: Callable[[], object], budget: float) -> float:
    """Least seconds of one call, over at least three calls and `budget` seconds."""
    best, calls, started = float("inf"), 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - started < budget:
        before = time.perf_counter()
        work()
        best, calls = min(best, time.perf_counter() - before), calls + 1
    return best


def machine() -> dict[str, Any]:
    """What receipts and reports say about the machine: cpu, cores, isa, memory in bytes, versions."""
    import torch

    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "isa": isa(),
        "memory": total_memory(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


_ISA_OF_NOTE = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "sve",
)


def isa() -> list[str]:
    """The vector instruction sets that matter for matrix products, as /proc/cpuinfo spells them."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    return [name for name in _ISA_OF_NOTE if name in flags]


def _meminfo(key: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def _cpuinfo(key: str) -> str | None:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return None


def _cgroup_folders() -> list[Path]:
    """Folders of the memory cgroups this process is in, own one first (v2, or v1's memory controller)."""
    folders: list[Path] = []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers == "" or "memory" in controllers.split(","):
                root = Path("/sys/fs/cgroup") / ("memory" if controllers else "")
                own = root / name.lstrip("/")
                folders += [folder for folder in (own, *own.parents) if folder == root or root in folder.parents]
    return folders


def _cgroup_room(folder: Path) -> int:
    """Limit less use, where file cache that can be dropped does not count as used."""
    v2 = (folder / "memory.max").exists()
    limit = (folder / ("memory.max" if v2 else "memory.limit_in_bytes")).read_text().strip()
    if limit == "max":
        raise ValueError("no limit")
    used = int((folder / ("memory.current" if v2 else "memory.usage_in_bytes")).read_text())
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return int(limit) - used + int(stat.get("inactive_file" if v2 else "total_inactive_file", 0))
