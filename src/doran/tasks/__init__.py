"""Tasks: questions with checkable answers, in English and Korean, and the rewards for form and language."""

from __future__ import annotations

from doran.tasks.task import Item, Score, Task, get_task, task_names

__all__ = ["Item", "Score", "Task", "get_task", "task_names"]
