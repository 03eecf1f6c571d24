"""Two gloo processes that live as long as the session and run what a test asks of both."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # jobs.py: with importlib mode the folder is not on the path


class Pair:
    """`pair(job, *args)`: what jobs.py's function `job(world, *args)` returned in each process."""

    def __init__(self) -> None:
        context, port = get_context("spawn"), free_port()
        self.pipes, self.processes = [], []
        for rank in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, rank, port), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def __call__(self, job: str, *args: Any) -> list[Any]:
        for pipe in self.pipes:
            pipe.send((job, args))
        answers = [pipe.recv() for pipe in self.pipes]
        failed = [value for fine, value in answers if not fine]
        assert not failed, failed[0]
        return [value for _, value in answers]


def serve(pipe: Any, rank: int, port: int) -> None:
    """A process's life: join, work, until the pipe closes."""
    sys.path.insert(0, str(HERE))
    import jobs
    import torch

    from doran.parallel.launch import joined

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with joined() as world:
        while True:
            try:
                job, args = pipe.recv()
            except EOFError:
                os._exit(0)
            try:
                pipe.send((True, getattr(jobs, job)(world, *args)))
            except BaseException:
                pipe.send((False, f"process {rank}: {traceback.format_exc()}"))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def pair() -> Iterator[Callable[..., list[Any]]]:
    """Both processes at your service. A job that fails in one alone leaves the other waiting: the test times out."""
    both = Pair()
    yield both
    for process in both.processes:
        process.kill()
        process.join()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the two processes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
