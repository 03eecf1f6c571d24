"""--rollouts: which server, and what is said when half of it is missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from doran.base.errors import UsageError
from doran.cli.rollout_server import remote_engine

OPENED = SimpleNamespace(model="the policy")


def test_kind_and_address_are_told_apart() -> None:
    engine = remote_engine("sglang:http://127.0.0.1:30000/v1/", Path("/shared/policy"), OPENED)
    assert engine is not None and (engine.server, engine.url) == ("sglang", "http://127.0.0.1:30000")
    assert engine.served == "/shared/policy" and engine.model == "the policy"  # vLLM names a model after its folder
    assert remote_engine(None, None, OPENED) is None


@pytest.mark.parametrize(
    ("server", "folder", "message"),
    [
        ("vllm:http://127.0.0.1:8000", None, "belong together"),
        (None, Path("x"), "belong together"),
        ("localhost", Path("x"), "belong together"),
        ("http://127.0.0.1:8000", Path("x"), "//127.0.0.1:8000: not an address"),
        ("vlm:http://127.0.0.1:8000", Path("x"), "'vlm'; did you mean vllm"),
    ],
)
def test_half_of_it_is_refused(server: str | None, folder: Path | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        remote_engine(server, folder, OPENED)
