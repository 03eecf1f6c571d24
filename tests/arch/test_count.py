"""Published sizes, and the census against real tensors."""

from __future__ import annotations

import math

import pytest

from doran.arch import presets
from doran.arch.config import FAMILIES
from doran.arch.count import cache_bytes_per_token, flops_per_token, parameters, quantized
from doran.arch.tensors import tensors


def test_deepseek_v3_has_its_published_parameters() -> None:
    counts = parameters(presets.deepseek_v3())
    assert counts.total == 671_026_419_200  # r1-facts 8.1
    assert counts.active == pytest.approx(37.55e9, rel=1e-4)
    assert counts.mtp == 11_610_068_224
    assert sum(counts.by_part.values()) == counts.total
    assert counts.by_part["experts"] / counts.total == pytest.approx(0.974, abs=1e-3)


def test_the_released_checkpoint_has_its_published_elements() -> None:
    config = presets.deepseek_v3()
    counts = parameters(config)
    scales = sum(math.ceil(r / 128) * math.ceil(c / 128) for _, (r, c) in quantized(config))
    assert scales == 41_540_496
    assert counts.total + counts.mtp + 2 * 129280 * 7168 + scales == 684_531_386_000  # r1-facts 8.2


def test_cache_bytes_of_known_models() -> None:
    assert cache_bytes_per_token(presets.deepseek_v3()) == 70_272  # r1-facts 8.3
    assert cache_bytes_per_token(presets.qwen2_5("72b")) == 327_680


@pytest.mark.parametrize(("size", "billions"), [("0.5b", 0.494), ("1.5b", 1.544), ("7b", 7.616), ("72b", 72.706)])
def test_qwen2_5_has_its_published_parameters(size: str, billions: float) -> None:
    assert parameters(presets.qwen2_5(size)).total == pytest.approx(billions * 1e9, rel=1e-3)


def test_llama3_8b_has_its_published_parameters() -> None:
    assert parameters(presets.llama3_8b()).total == 8_030_261_248


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_census_matches_the_real_tensors(family: str, tied: bool) -> None:
    from doran.models.families import empty

    config = presets.tiny(family, tie_word_embeddings=tied)
    model = empty(config)
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    counts = parameters(config)
    assert sum(t.numel() for t in held.values()) == counts.total + counts.mtp
    assert len({name for name, _ in tensors(config)}) == len(list(tensors(config)))


def test_flops_are_two_for_each_weight_met_and_grow_with_context() -> None:
    config = presets.tiny("llama")
    counts = parameters(config)
    met = counts.active - counts.by_part["norms"] - counts.by_part["embedding"]
    per_key = config.num_hidden_layers * config.num_attention_heads * 2 * config.head_dim * 2
    assert flops_per_token(config, 10) == 2 * met + 10 * per_key


def test_a_tied_head_still_costs_its_multiplication() -> None:
    tied = presets.tiny("llama", tie_word_embeddings=True)
    assert flops_per_token(tied, 8) == flops_per_token(presets.tiny("llama"), 8)


def test_arch_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, doran.arch.count, doran.arch.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
