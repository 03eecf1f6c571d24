"""A user's reward function, `mine.py:score?timeout_s=5`, run in a process that is killed when it hangs (parent's side).

    def score(prompt: str, completion: str, answer: str | None) -> float: ...

It may also ask for reply (what stands after the thought), thought, language and meta. With a parameter `completions` it
gets lists and gives a list, as TRL's reward functions do.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from doran.base.errors import ConfigError
from doran.tasks.answer import answer_part
from doran.tasks.math_process import Worker, WorkerFailed
from doran.tasks.rewards import Asked, Case, RewardPart, Unjudged
from doran.tasks.spec import options_of
from doran.text.parse import split_thought

_SCRIPT = Path(__file__).with_name("reward_worker.py")


def file_reward(spec: str) -> RewardPart:
    """The part of FILE.py:FUNCTION, options timeout_s (5) and memory_mb (4096). ConfigError where it is none."""
    base, options = options_of(spec, {"timeout_s": 5.0, "memory_mb": 4096.0})
    path, _, function = base.rpartition(":")
    if not path.endswith(".py") or not function.isidentifier():
        raise ConfigError(f"reward {spec!r}: no file and function", hint="write rewards.py:my_function")
    if not Path(path).is_file():
        raise ConfigError(f"reward {spec!r}: {path}: no such file", hint="check the path")
    return FileReward(Path(path), function, options["timeout_s"], int(options["memory_mb"]))


class FileReward(RewardPart):
    """The user's function, one completion at a time or, if it takes lists, all at once."""

    def __init__(self, path: Path, function: str, timeout_s: float, memory_mb: int) -> None:
        super().__init__(f"{path.stem}.{function}")
        self.worker = _FunctionWorker(path, function, timeout_s, memory_mb)
        try:
            self.many = bool(self.worker.begin().get("many"))  # a mistake in the file is told before training begins
        except WorkerFailed as failure:
            raise ConfigError(f"reward {path}:{function}: {failure}", hint="mend the file") from None

    def judge_all(self, questions: Sequence[Asked], cases: Sequence[Case]) -> list[float | Unjudged]:
        """What the function gives; what it raises, or a hang, is told for each completion it concerns."""
        told = [_told(case) for case in cases]
        if not self.many:
            return [self._ask([one]) for one in told]
        values = self._ask(told)
        if isinstance(values, Unjudged):
            return [values] * len(cases)
        if not isinstance(values, list) or len(values) != len(cases):
            return [Unjudged("no number", f"it gave no list of {len(cases)} numbers")] * len(cases)
        return values

    def _ask(self, cases: list[dict[str, Any]]) -> Any:
        try:
            reply = self.worker.ask(cases)
        except WorkerFailed as failure:
            return Unjudged("timeout" if "within" in str(failure) else "died", str(failure))
        return Unjudged("raised", str(reply["error"])) if "error" in reply else reply["value"]

    def close(self) -> None:
        """End the process."""
        self.worker.stop()


class _FunctionWorker(Worker):
    """The process with the user's file in it."""

    what = "the reward function"
    stderr = None  # what the user prints is seen

    def __init__(self, path: Path, function: str, timeout_s: float, memory_mb: int) -> None:
        super().__init__(timeout_s, memory_mb)
        self.path, self.function = path, function

    def command(self) -> list[str]:
        return [sys.executable, "-P", str(_SCRIPT), str(self.memory_mb), str(self.path), self.function]


def _told(case: Case) -> dict[str, Any]:
    item = case.item
    thought, reply = split_thought(case.text).reasoning, answer_part(case.text) or ""
    return {"prompt": item.prompt, "completion": case.text, "answer": item.answer, "reply": reply, "thought": thought,
            "language": item.language,
            "meta": {key: value for key, value in item.meta.items() if isinstance(value, str | int | float)}}


