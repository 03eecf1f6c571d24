"""The child process that compares mathematics with math-verify: one JSON request a line in, one reply a line out.

Runs as a script with an address-space limit; imports nothing of doran. Its parent (math_process.py) holds the clock.
"""

from __future__ import annotations

import json
import os
import sys


def _limit_memory(megabytes: int) -> None:
    try:
        import resource
    except ImportError:  # no such limit on this system; the clock still holds
        return
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(memory_mb: int) -> None:
    """Say ready, then answer requests until the pipe closes."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not write into the replies
    _limit_memory(memory_mb)
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    configs = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            gold, answer = (
                parse(f"\\boxed{{{text}}}", extraction_config=configs, parsing_timeout=None, raise_on_error=True)
                for text in (request["gold"], request["answer"])
            )
            equal = bool(gold and answer and verify(gold, answer, timeout_seconds=None, raise_on_error=True))
            reply = {"equal": equal, "reason": "equal by math-verify" if equal else "differs by math-verify"}
        except MemoryError:
            raise SystemExit(1) from None  # a process that ran out once is not to be trusted
        except Exception as error:  # whatever a parser throws at hostile text: the answer is not equal
            reply = {"equal": False, "reason": f"not readable as mathematics ({type(error).__name__})"}
        print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
