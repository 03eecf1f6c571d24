"""A model of two small layers and data it can learn in seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from doran.arch.presets import tiny
from doran.base.rng import python_rng
from doran.data.packing import Pack
from doran.models.decoder import Decoder
from doran.models.families import build
from doran.train.batch import pack

sys.path.insert(0, str(Path(__file__).parent))  # grpo_kit.py: with importlib mode the folder is not on the path


@pytest.fixture
def make_model() -> Callable[..., Decoder]:
    """make_model(seed=0, **config changes): deepseek_v3 with MLA, experts and MTP; other families by model_type."""

    def make(seed: int = 0, model_type: str = "deepseek_v3", **changes: object) -> Decoder:
        config = tiny(
            model_type, vocab_size=32, hidden_size=32, num_hidden_layers=2, max_position_embeddings=64, **changes
        )
        return build(config, seed=seed)

    return make


@pytest.fixture
def counting() -> Callable[[int], Iterator[Pack]]:
    """batches(position): documents that count upwards by 1, 2 or 3 modulo 32, of mixed lengths."""

    def batches(position: int) -> Iterator[Pack]:
        while True:
            rng = python_rng("counting", position)
            samples = []
            for _ in range(12):
                start, stride = rng.randrange(32), rng.randrange(1, 4)
                ids = [(start + stride * i) % 32 for i in range(rng.randrange(8, 24))]
                samples.append((ids, [True] * len(ids)))
            yield pack(samples)
            position += 1

    return batches


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models are fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
