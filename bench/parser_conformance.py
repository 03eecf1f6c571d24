"""Feeds every split of every sample reply to a parser of thoughts: ours, or another server's.

    python bench/parser_conformance.py                       # doran's
    python bench/parser_conformance.py mymodule:make         # make(opened: bool) -> object with feed(piece) and close()

Exit code 1 and one line for each sample that came apart differently, or in a way that depends on the split.
"""

from __future__ import annotations

import sys
from importlib import import_module

from doran.serve.conformance import SAMPLES, check
from doran.text.parse import StreamSplitter


def main() -> int:
    """Check the parser named on the command line."""
    make = StreamSplitter
    if len(sys.argv) > 1:
        module, _, name = sys.argv[1].partition(":")
        make = getattr(import_module(module), name)
    wrong = check(make)
    for line in wrong:
        print(line)
    print(f"{len(SAMPLES) - len(wrong)} of {len(SAMPLES)} samples are taken apart alike at every split")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
