"""--rollouts and --rollouts-folder: RL's completions from a server of vLLM or SGLang (engine/remote.py)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.errors import UsageError

if TYPE_CHECKING:
    from doran.engine.remote import RemoteEngine

RolloutServer = Annotated[
    str | None,
    typer.Option("--rollouts", metavar="KIND:URL", help="Sample from vllm:http://HOST:PORT or sglang:... instead."),
]
RolloutFolder = Annotated[
    Path | None,
    typer.Option("--rollouts-folder", metavar="DIR", help="The folder that server was started on, for new weights."),
]


def remote_engine(server: str | None, folder: Path | None, opened: Any) -> RemoteEngine | None:
    """The server's engine for the opened model, None without one. UsageError: half of it is missing."""
    if server is None and folder is None:
        return None
    kind, colon, url = (server or "").partition(":")
    if not colon or folder is None:
        raise UsageError(
            "--rollouts KIND:URL and --rollouts-folder DIR belong together",
            hint="such as --rollouts vllm:http://127.0.0.1:8000 --rollouts-folder /shared/policy",
        )
    from doran.engine.remote import RemoteEngine

    return RemoteEngine(opened.model, url, str(folder), folder, kind)
