"""The format reward of R1-Zero: a thought between think tags, then an answer (R1, section 2.2.2).

Not here: whether the answer is right, or in which language the thought is.
"""

from __future__ import annotations

from doran.tasks.answer import answer_part
from doran.text.parse import OPEN, split_thought


def format_reward(text: str, opened: bool = False) -> float:
    """1.0 for exactly one `<think>…</think>` at the start, a thought that says something and an answer after it.

    Else 0.0. `opened`: the chat template wrote the opening tag already, so the completion must not.
    An end-of-text token is no answer.
    """
    return float(split_thought(text, opened).well_formed and bool(answer_part(OPEN + text if opened else text)))
