"""Models with packed weights: the same logits as with dequantised ones, in the engine too; GGUF files as a source."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from doran.arch.config import ModelConfig
from doran.engine.engine import Engine
from doran.engine.native_runner import native_runner
from doran.engine.request import SamplingParams
from doran.engine.runner import Runner
from doran.layers.attention import PackedAttend
from doran.models.decoder import Decoder
from doran.models.export_gguf import export_gguf
from doran.models.families import build
from doran.models.packed import assemble
from doran.models.quantize import quantize_folder
from doran.models.weights import load_model, open_source, save_model
from doran.native import quant

SMALL = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 128, "initializer_range": 0.1}  # fmt: skip
CONFIGS = {
    "llama": ModelConfig(model_type="llama", num_key_value_heads=2, **SMALL),
    "qwen2": ModelConfig(model_type="qwen2", num_key_value_heads=2, tie_word_embeddings=True, **SMALL),
    "qwen3": ModelConfig(model_type="qwen3", num_key_value_heads=2, head_dim=32, **SMALL),
    "deepseek_v3": ModelConfig(
        model_type="deepseek_v3", q_lora_rank=32, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8,
        v_head_dim=16, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, n_shared_experts=1,
        first_k_dense_replace=1, n_group=2, topk_group=1, routed_scaling_factor=1.5, **SMALL,
    ),
}  # fmt: skip
FAMILIES = pytest.mark.parametrize("family", list(CONFIGS))
TOKENS = torch.randint(0, 96, (20,), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Decoder) -> torch.Tensor:
    return model.logits(model(TOKENS, torch.arange(20), PackedAttend([0, 20]))).float()


def saved(family: str, folder: Path, seed: int = 3) -> Path:
    model = build(CONFIGS[family], seed=seed)
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(value, 0.0, 0.1)
    save_model(model, folder)
    return folder


@FAMILIES
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_packed_weights_give_the_logits_of_dequantised_ones(family: str, kind: str, tmp_path: Path) -> None:
    source = saved(family, tmp_path / "m")
    quantize_folder(source, tmp_path / "q", kind)
    found = open_source(tmp_path / "q")
    assert found.is_quantized
    dense, packed = assemble(found, torch.float32, packed=False), load_model(tmp_path / "q")
    assert not dense.quantized and packed.quantized == quant.available()
    a, b, c = logits(dense), logits(packed), logits(load_model(source))
    flips = 5 if family == "deepseek_v3" else 1  # rounding lets a router of random weights choose other experts
    assert (a - b).std() < flips * 0.04 * a.std()  # activations are rounded to int8
    assert (a - c).std() < flips * (0.04 if kind == "int8" else 0.4) * c.std()


@FAMILIES
def test_the_engine_runs_packed_models(family: str, tmp_path: Path) -> None:
    quantize_folder(saved(family, tmp_path / "m"), tmp_path / "q", "int8")
    model = load_model(tmp_path / "q")
    params = SamplingParams(6, temperature=0.0)
    prompts = [[1, 2, 3, 4], [5, 6, 7]]
    together = Engine(model).generate(prompts, params)
    alone = [Engine(model).generate([p], params)[0] for p in prompts]
    assert [c[0].token_ids for c in together] == [c[0].token_ids for c in alone]


def test_a_packed_model_cannot_be_saved_by_mistake(tmp_path: Path) -> None:
    if not quant.available():
        pytest.skip("no C++ compiler on this machine")
    quantize_folder(saved("qwen2", tmp_path / "m"), tmp_path / "q", "int8")
    with pytest.raises(ValueError, match="packed"):
        save_model(load_model(tmp_path / "q"), tmp_path / "again")


@FAMILIES
@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_gguf_and_back_gives_the_same_model(family: str, kind: str, tmp_path: Path) -> None:
    source = saved(family, tmp_path / "m")
    export_gguf(source, tmp_path / "m.gguf", kind)
    before, after = logits(load_model(source)), logits(load_model(tmp_path / "m.gguf"))
    worst = {"f32": 1e-5, "f16": 2e-3, "q8_0": 0.06}[kind]
    assert (before - after).std() < worst * before.std()


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_folders_reach_gguf_without_another_rounding(kind: str, tmp_path: Path) -> None:
    quantize_folder(saved("llama", tmp_path / "m"), tmp_path / "q", kind)
    export_gguf(tmp_path / "q", tmp_path / "q.gguf")
    ours, theirs = (
        assemble(open_source(p), torch.float32, packed=False) for p in (tmp_path / "q", tmp_path / "q.gguf")
    )
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.skipif(not quant.available(), reason="no C++ compiler on this machine")
@FAMILIES
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_native_step_agrees_with_the_models_own_code(family: str, kind: str, tmp_path: Path) -> None:
    quantize_folder(saved(family, tmp_path / "m"), tmp_path / "q", kind, "int4")
    model = load_model(tmp_path / "q")
    own = Runner(model, None, None, 1 << 24)
    native = native_runner(model, None, None, 1 << 24, 4)
    assert native is not None
    prompts, next_N = [[1, 2, 3, 4, 5], [6, 7, 8]], torch.tensor([9, 10])
    results = []
    for runner in (own, native):
        if runner is own:
            runner.resize(2, 0, 16, 64)
        first = runner.prefill(prompts, [1, 1], 0)
        results.append(torch.cat((first, runner.decode(next_N, torch.tensor([5, 3])))))
    assert (results[0] - results[1]).std() < 2e-3 * results[0].std()  # the same arithmetic, but for the last bits
