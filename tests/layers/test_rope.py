"""Rotary tables: DeepSeek-V3's YaRN numbers, transformers' tables, the two pairings."""

from __future__ import annotations

import pytest
import torch

from doran.arch import presets
from doran.arch.rope_scaling import RopeScaling
from doran.layers.rope import Rope, apply_rope, inverse_frequencies, yarn_bounds

_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def test_the_yarn_table_of_deepseek_v3() -> None:  # r1-facts 8.5
    config = presets.deepseek_v3()
    table = inverse_frequencies(config)
    expected = {
        0: 1.0, 10: 0.0562341325, 11: 0.0390069265, 16: 0.0055, 22: 1.778279e-4, 23: 3.33380e-5, 31: 3.3338e-6,
    }  # fmt: skip
    for index, value in expected.items():
        assert table[index].item() == pytest.approx(value, rel=1e-4)
    assert config.rope_scaling is not None
    assert yarn_bounds(config.rope_scaling, 64, 10000.0) == (10, 23)


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {"rope_type": "linear", "factor": 3.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 128},
        _YARN,
        {**_YARN, "truncate": False, "beta_fast": 16.0},
        {**_YARN, "attention_factor": 0.7},
        {**_YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
    ],
)  # fmt: skip
def test_tables_equal_those_of_transformers(scaling: dict | None) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = presets.tiny("llama", rope_scaling=RopeScaling(**scaling) if scaling else None)
    keys = {k: v for k, v in config.to_hf().items() if k != "architectures"}
    theirs = LlamaRotaryEmbedding(transformers.LlamaConfig(**keys))
    positions = torch.arange(300)
    cos, sin = theirs(torch.zeros(1), positions[None])
    table = Rope(config).table(positions)
    half = cos.shape[-1] // 2
    assert torch.allclose(table.cos, cos[0, :, :half], atol=1e-5)
    assert torch.allclose(table.sin, sin[0, :, :half], atol=1e-5)


def test_products_depend_on_distance_only_and_pairings_differ() -> None:
    config = presets.tiny("llama")
    q, k = torch.randn(1, 1, 16), torch.randn(1, 1, 16)
    rope = Rope(config)

    def product(i: int, j: int, interleave: bool) -> float:
        a, b = (rope.table(torch.tensor([n])) for n in (i, j))
        return (apply_rope(q, a, interleave) * apply_rope(k, b, interleave)).sum().item()

    for interleave in (True, False):
        assert product(7, 3, interleave) == pytest.approx(product(104, 100, interleave), abs=1e-4)
    assert abs(product(7, 3, True) - product(7, 3, False)) > 1e-3


def test_interleaved_rotation_is_the_complex_product_of_the_reference() -> None:
    config = presets.tiny("llama")
    x, positions = torch.randn(5, 2, 16), torch.arange(5)
    angles = positions[:, None].float() * inverse_frequencies(config)
    spun = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angles), angles)[:, None]
    ours = apply_rope(x, Rope(config).table(positions), interleave=True)
    assert torch.allclose(ours, torch.cat((spun.real, spun.imag), -1), atol=1e-6)


def test_low_precision_input_is_rotated_in_fp32() -> None:
    x = torch.randn(4, 2, 16).bfloat16()
    table = Rope(presets.tiny("llama")).table(torch.arange(4) + 500)
    out = apply_rope(x, table, False)
    assert out.dtype == torch.bfloat16 and torch.equal(out, apply_rope(x.float(), table, False).bfloat16())
