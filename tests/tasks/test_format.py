"""The format reward."""

from __future__ import annotations

import pytest

from doran.tasks.format import format_reward


@pytest.mark.parametrize(("text", "opened", "reward"), [
    ("<think>a</think>b", False, 1.0),
    ("\n<think>\na\n</think>\n\nb", False, 1.0),
    ("a</think>b", True, 1.0),
    ("a</think>b", False, 0.0),
    ("<think>a</think>b", True, 0.0),
    ("<think>a</think>", False, 0.0),
    ("<think>a</think> \n", False, 0.0),
    ("<think>a</think><|im_end|>", False, 0.0),
    ("<think>a</think>b<|im_end|>", False, 1.0),
    ("<think> </think>b", False, 0.0),
    ("</think>b", True, 0.0),
    ("b", False, 0.0),
    ("", False, 0.0),
    ("", True, 0.0),
    ("well <think>a</think>b", False, 0.0),
    ("<think>a</think>b<think>c</think>d", False, 0.0),
    ("<think><think>a</think>b", False, 0.0),
    ("<think>a</think>b</think>c", False, 0.0),
    ("</think>a<think>b", False, 0.0),
    ("<think>생각</think>답", False, 1.0),
])
def test_exactly_one_thought_then_an_answer(text: str, opened: bool, reward: float) -> None:
    assert format_reward(text, opened) == reward
