"""What all tests share: no network, few threads, and a way to the shared data folder."""

from __future__ import annotations

import os

# Before any library reads them: tests never go to a network, and tiny tensors gain nothing from many threads.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_VERBOSITY="error",
    MPLBACKEND="Agg",
    NO_COLOR="1",
    COLUMNS="120",
    TERM="dumb",
    DORAN_LANG="en",
)
os.environ.setdefault("OMP_NUM_THREADS", "2")
if not os.path.exists("/dev/nvidia0"):
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton's kernels, where it is installed, run without a GPU

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # for stub_server.py: importlib mode leaves the folder off the path

# A busy machine is not a failure, and a failure must come back on the next run.
settings.register_profile("doran", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("doran")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real tokenizers, configs and problem sets; DORAN_SHARED_DATA says where, else ../shared/data."""
    folder = Path(os.environ.get("DORAN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder}; set DORAN_SHARED_DATA to run this test")
    return folder


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The root of this repository."""
    return ROOT


@pytest.fixture(autouse=True)
def _threads_stay_as_they_are(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that sets torch's thread count or default type must not change the next one's numbers."""
    import sys

    torch = sys.modules.get("torch")
    before = (torch.get_num_threads(), torch.get_default_dtype()) if torch else None
    yield
    if torch and before:
        torch.set_num_threads(before[0])
        torch.set_default_dtype(before[1])
