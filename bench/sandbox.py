"""How many untrusted programs a second the sandbox runs, beside a fresh interpreter for each (no isolation at all).

    python bench/sandbox.py --rounds 5

run: print(1), output read back. check: a function and one assert, in two processes. subprocess: `python -c print(1)`.
Not here: programs that compute; their own time comes on top.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from doran.sandbox.pool import Limits, Sandbox


def rate(work: Callable[[], object], count: int, parallel: int) -> float:
    """Calls a second, `parallel` at a time."""
    began = time.perf_counter()
    with ThreadPoolExecutor(parallel) as threads:
        list(threads.map(lambda _: work(), range(count)))
    return count / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are over these")
    parser.add_argument("--count", type=int, default=400, help="programs in a round (a tenth for subprocess)")
    parser.add_argument("--workers", type=int, default=2, help="programs at a time")
    parser.add_argument("--backend", default="auto", help="auto, unshare or bwrap")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write every number to FILE")
    args = parser.parse_args()
    with Sandbox(Limits(), args.workers, args.backend) as box:
        def run() -> None:
            assert box.run("print(1)").output == "1\n"

        def check() -> None:
            assert box.check("def f(x): return 2 * x", ["assert f(3) == 6"], ["f"]).correct

        def fresh() -> None:
            assert subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True).stdout == b"1\n"

        began = time.perf_counter()
        run()
        start = time.perf_counter() - began
        figures: dict[str, list[float]] = {"run": [], "check": [], "subprocess": []}
        for _ in range(args.rounds):
            figures["run"].append(rate(run, args.count, args.workers))
            figures["check"].append(rate(check, args.count, args.workers))
            figures["subprocess"].append(rate(fresh, args.count // 10, args.workers))
    print(f"start of the first sandbox: {start:.2f} s")
    for name, values in figures.items():
        print(f"{name:<11}{statistics.median(values):7.0f} a second ({min(values):.0f} to {max(values):.0f})")
    if args.json:
        args.json.write_text(json.dumps({"start_s": start, "figures": figures}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
