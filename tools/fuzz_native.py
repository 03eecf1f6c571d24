"""Random calls, right and wrong, into the quantised kernels under AddressSanitizer and UBSan. Needs g++ with both.

    python tools/fuzz_native.py --calls 2000

Every array has exactly the size the call promises, so that one byte too far is seen. Wrong calls (null, misaligned,
negative or huge sizes, short strides, bad groups) must be refused with a negative number. Exit code 1 and the
sanitizer's report otherwise.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

NATIVE = Path(__file__).resolve().parents[1] / "src" / "doran" / "native"
FLAGS = ["-std=c++20", "-O1", "-g", "-march=native", "-fopenmp", "-fPIC", "-shared", "-fno-omit-frame-pointer",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]  # fmt: skip
SOURCES = 6  # kinds that qpack reads; layouts they become:
LAYOUT = (0, 1, 0, 1, 2, 3)


def main() -> None:
    """Build, then run the calls in a process that has the sanitizer loaded first."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--calls", type=int, default=2000)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--library", help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.library:
        fuzz(ctypes.CDLL(args.library), args.calls, np.random.default_rng(args.seed))
        print(f"{args.calls} calls, nothing found")
        return
    with tempfile.TemporaryDirectory() as folder:
        built = str(Path(folder) / "quant.so")
        subprocess.run(
            ["g++", *FLAGS, str(NATIVE / "quant.cpp"), str(NATIVE / "quant_pack.cpp"), "-o", built], check=True
        )
        found = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
        env = {
            **os.environ,
            "LD_PRELOAD": found.stdout.strip(),
            "ASAN_OPTIONS": "detect_leaks=0",
            "OMP_NUM_THREADS": "2",
        }
        again = [sys.executable, __file__, "--library", built, "--calls", str(args.calls), "--seed", str(args.seed)]
        sys.exit(subprocess.run(again, env=env).returncode)


def row_bytes(source: int, k: int) -> int:
    """Bytes of one stored row, as in quant_pack.cpp."""
    return (k, k // 2, k // 32 * 34, k // 32 * 18, k // 256 * 144, k // 256 * 210)[source]


def fuzz(library: ctypes.CDLL, calls: int, rng: np.random.Generator) -> None:
    """Right calls first packed then multiplied; every third one is then spoilt and must be refused."""
    for name in ("qpacked_bytes", "qpack", "qmatmul"):
        getattr(library, name).restype = ctypes.c_int64
    for number in range(calls):
        source = int(rng.integers(SOURCES))
        n, m, groups = (int(rng.integers(1, most)) for most in (50, 40, 4))
        k = int(rng.integers(1, 4)) * (256 if source >= 4 else 32)
        size = library.qpacked_bytes(i64(LAYOUT[source]), i64(n), i64(k))
        packed = np.zeros(groups * size, dtype=np.uint8)
        for g in range(groups):
            rows = rng.integers(0, 256, n * row_bytes(source, k), dtype=np.uint8)
            scales = rng.random((n, k // 32)).astype(np.float16)
            part = packed[g * size : (g + 1) * size]
            assert library.qpack(i64(source), at(rows), at(scales), i64(n), i64(k), at(part)) == 0
        cuts = np.sort(rng.integers(0, m + 1, groups - 1)).astype(np.int64)
        offsets = np.concatenate(([0], cuts, [m])).astype(np.int64)
        ldx, ldy = k + int(rng.integers(0, 5)), n + int(rng.integers(0, 5))
        x = rng.standard_normal((m - 1) * ldx + k).astype(np.float32)
        y = np.zeros((m - 1) * ldy + n, dtype=np.float32)
        bias = rng.standard_normal(n).astype(np.float32)
        call = {
            "fmt": LAYOUT[source], "isa": int(rng.integers(0, 4)), "x": x.ctypes.data, "x_bf16": 0, "ldx": ldx,
            "m": m, "k": k, "packed": packed.ctypes.data, "n": n, "offsets": offsets.ctypes.data, "groups": groups,
            "bias": bias.ctypes.data, "y": y.ctypes.data, "y_bf16": 0, "ldy": ldy,
        }  # fmt: skip
        assert run(library, call) == 0, call
        if number % 3 == 0:
            spoilt = spoil(call, rng)
            assert run(library, spoilt) < 0, spoilt


def spoil(call: dict[str, int], rng: np.random.Generator) -> dict[str, int]:
    """One argument made wrong."""
    wrong = [
        {"fmt": 4}, {"fmt": -1}, {"isa": 7}, {"x": 0}, {"y": 0}, {"packed": 0}, {"x": call["x"] + 1},
        {"y": call["y"] + 2}, {"offsets": call["offsets"] + 4}, {"k": call["k"] + 1}, {"k": -call["k"]}, {"k": 0},
        {"n": 0}, {"n": -5}, {"m": -1}, {"m": 1 << 62}, {"n": 1 << 61}, {"ldx": call["k"] - 1}, {"ldx": -1},
        {"ldy": call["n"] - 1}, {"groups": 0}, {"groups": -3}, {"m": call["m"] + 1}, {"offsets": 0, "groups": 2},
    ]  # fmt: skip
    return {**call, **wrong[int(rng.integers(len(wrong)))]}


def run(library: ctypes.CDLL, call: dict[str, int]) -> int:
    """qmatmul with the arguments by name."""
    pointers = ("x", "packed", "offsets", "bias", "y")
    return library.qmatmul(*((ctypes.c_void_p if key in pointers else ctypes.c_int64)(v) for key, v in call.items()))


def at(array: np.ndarray) -> ctypes.c_void_p:
    """Its address."""
    return ctypes.c_void_p(array.ctypes.data)


i64 = ctypes.c_int64

if __name__ == "__main__":
    main()
