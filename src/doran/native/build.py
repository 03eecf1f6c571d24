"""Compiles the C++ kernels at first use and loads them with ctypes; says so and steps aside where there is no compiler.

Not a build system: a few source files, two shared libraries, kept in the user's cache folder under a name that hashes
the sources, the flags and the processor, so that a changed source or another machine never meets a stale library. The
sources are read when this file is imported and compiled from that copy, beside the cache, under another name until
whole: who edits them meanwhile, or builds at the same moment, cannot make a process load what it does not expect.
`DORAN_NATIVE=0` turns the kernels off; the torch reference (reference.py) then does the same work, slower.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# Two libraries, so that a machine that only trains need not compile the decoder, and a change in one spares the other.
LIBRARIES = {
    "kernels": ("attention.cpp", "pointwise.cpp", "quant.cpp", "quant_pack.cpp"),
    "decoder": ("decoder.cpp",),
}
HEADERS = {
    "kernels": ("common.h", "quant.h", "quant_tiles.h"),
    "decoder": (
        "common.h",
        "quant.h",
        "quant_tiles.h",
        "tiles.h",
        "paged.h",
        "draw.h",
        "decoder.h",
        "decoder_layers.h",
        "decoder_drafts.h",
        "decoder_steps.h",
    ),  # fmt: skip
}
SOURCES = {
    file: (HERE / file).read_bytes() for name in LIBRARIES for file in sorted({*LIBRARIES[name], *HEADERS[name]})
}
FLAGS = (
    "-std=c++20",
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
)


def cache_dir() -> Path:
    """Folder for compiled kernels: $DORAN_CACHE, else $XDG_CACHE_HOME/doran, else ~/.cache/doran."""
    if "DORAN_CACHE" in os.environ:
        return Path(os.environ["DORAN_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "doran"


def processor() -> str:
    """What distinguishes two machines for `-march=native`: the architecture and the instruction-set flags."""
    flags = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        flags = next((line for line in info.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    return platform.machine() + flags


def find_compiler() -> str | None:
    """The C++ compiler: $CXX, else g++, c++ or clang++ on the PATH; None where there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]
    return next((found for name in names if (found := shutil.which(name))), None)


@functools.cache
def library(name: str = "kernels") -> ctypes.CDLL | None:
    """One of LIBRARIES, loaded; None where native code is turned off or cannot be built (said once, on stderr)."""
    if os.environ.get("DORAN_NATIVE", "1") == "0":
        return None
    try:
        return ctypes.CDLL(str(build(name)))
    except (OSError, RuntimeError) as error:
        print(f"doran: native {name} not available ({error}); torch runs instead, slower", file=sys.stderr)
        return None


def build(name: str = "kernels") -> Path:
    """Compile unless the cache has it; returns the library's path. RuntimeError with the compiler's first complaint."""
    sources = LIBRARIES[name]
    text = b"".join(SOURCES[file] for file in (*sources, *HEADERS[name]))
    key = hashlib.sha256(text + " ".join(FLAGS).encode() + processor().encode()).hexdigest()[:16]
    target = cache_dir() / f"{name}-{key}.so"
    if target.exists():
        return target
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler found; install g++ or set CXX")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for file in (*sources, *HEADERS[name]):
            (Path(folder) / file).write_bytes(SOURCES[file])
        beside = Path(folder) / target.name
        command = [compiler, *FLAGS, "-shared", *(str(Path(folder) / file) for file in sources), "-o", str(beside)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["no message"]
            raise RuntimeError(f"{compiler} failed: {next((line for line in said if 'error' in line), said[0])}")
        os.replace(beside, target)
    return target
