"""config.json in and out: real files, transformers' own, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doran.arch import presets
from doran.arch.config import FAMILIES, ModelConfig, load_config
from doran.base.errors import ArtifactError, ConfigError


def _raw(**changes: object) -> dict:
    return {**json.loads(json.dumps(presets.tiny().to_hf())), **changes}


@pytest.mark.parametrize("name", ["deepseek-ai--DeepSeek-V3", "deepseek-ai--DeepSeek-R1"])
def test_the_real_deepseek_config_is_the_preset(shared_data: Path, name: str) -> None:
    raw = json.loads((shared_data / "model_configs" / f"{name}.config.json").read_text())
    read = ModelConfig.from_hf(raw)
    assert read.quantization_config == raw["quantization_config"]
    expected = {**presets.deepseek_v3().__dict__, "initializer_range": 0.02}
    assert {**read.__dict__, "quantization_config": None} == expected


def test_real_llama_and_qwen_configs_are_the_presets(shared_data: Path) -> None:
    configs = shared_data / "model_configs"
    llama = ModelConfig.from_hf(json.loads((configs / "meta-llama--Meta-Llama-3.1-8B.config.json").read_text()))
    assert llama == presets.llama3_8b()
    qwen = ModelConfig.from_hf(json.loads((shared_data / "tokenizers/qwen2.5/config.json").read_text()))
    assert qwen == presets.qwen2_5("7b")


@pytest.mark.parametrize("size", ["0.6B", "1.7B", "8B"])
def test_real_qwen3_configs_parse(shared_data: Path, size: str) -> None:
    raw = json.loads((shared_data / "model_configs" / f"Qwen--Qwen3-{size}.config.json").read_text())
    read = ModelConfig.from_hf(raw)
    assert (read.hidden_size, read.head_dim, read.rope_theta) == (raw["hidden_size"], 128, 1e6)


@pytest.mark.parametrize("name", ["Qwen--Qwen3-30B-A3B", "openai--gpt-oss-20b", "deepseek-ai--DeepSeek-V3.2"])
def test_an_unknown_architecture_is_refused_by_name(shared_data: Path, name: str) -> None:
    raw = json.loads((shared_data / "model_configs" / f"{name}.config.json").read_text())
    with pytest.raises(ConfigError, match=f"unknown architecture '{raw['model_type']}'"):
        ModelConfig.from_hf(raw)


@pytest.mark.parametrize("family", FAMILIES)
def test_to_hf_and_back_is_the_identity(family: str) -> None:
    config = presets.tiny(family)
    assert ModelConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config


@pytest.mark.parametrize("config", [presets.deepseek_v3(), presets.llama3_8b(), presets.qwen2_5("0.5b")])
def test_presets_survive_a_round_trip(config: ModelConfig) -> None:
    assert ModelConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_our_config_and_we_read_what_it_saves(family: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = presets.tiny(family, rms_norm_eps=1e-5)
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (theirs.model_type, theirs.hidden_size) == (family, config.hidden_size)
    theirs.save_pretrained(tmp_path)
    assert load_config(tmp_path) == config


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown key 'hiden_size'; did you mean 'hidden_size'"):
        ModelConfig.from_hf(_raw(hiden_size=3))


def test_an_unknown_key_near_nothing_is_refused_too() -> None:
    with pytest.raises(ConfigError, match="unknown key 'zzz'"):
        ModelConfig.from_hf(_raw(zzz=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"scoring_func": "softmax"}, "scoring_func is 'softmax'"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"n_group": 3}, "not a multiple of n_group"),
        ({"n_group": 8, "topk_group": 8}, "best two"),
        ({"topk_group": 5}, "topk_group 5"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok 5"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "unknown rope_type 'dynamic'"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "beta": 1}}, "unknown key 'beta'"),
        ({"rope_scaling": {"type": "yarn"}}, "needs a factor"),
        ({"masked_group_score": "0"}, "masked_group_score"),
        ({"quantization_config": {"quant_method": "awq"}}, "quant_method is 'awq'"),
        ({"layer_types": ["sliding_attention"]}, "full_attention"),
    ],
)
def test_impossible_values_are_one_clear_line(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ModelConfig.from_hf(_raw(**change))
    assert "\n" not in str(caught.value) and "config.json" in str(caught.value)


def test_the_group_mask_is_written_only_when_it_is_not_the_default() -> None:
    assert "masked_group_score" not in presets.tiny().to_hf()
    loose = presets.tiny(masked_group_score="zero")
    assert ModelConfig.from_hf(loose.to_hf()) == loose


def test_a_missing_key_is_named() -> None:
    raw = _raw()
    del raw["kv_lora_rank"]
    with pytest.raises(ConfigError, match="kv_lora_rank is missing"):
        ModelConfig.from_hf(raw)


def test_dense_families_refuse_experts() -> None:
    with pytest.raises(ConfigError, match="llama has no experts"):
        presets.tiny("llama", n_routed_experts=4)


def test_both_spellings_of_rope_agree() -> None:
    old = _raw(rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, rope_theta=5e4)
    new = _raw(
        rope_parameters={
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 5e4,
        },
        rope_theta=None, rope_scaling=None,
    )  # fmt: skip
    assert ModelConfig.from_hf(old) == ModelConfig.from_hf(new)


def test_the_softmax_scale_of_deepseek_v3() -> None:
    assert presets.deepseek_v3().softmax_scale == pytest.approx(0.13523378, abs=5e-9)
    assert presets.deepseek_v3().rope_scaling.table_factor == 1.0  # type: ignore[union-attr]


def test_a_missing_or_broken_config_file_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="config.json"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ArtifactError, match="config.json"):
        load_config(tmp_path)


def test_nothing_hangs_on_a_size() -> None:
    small = presets.tiny(num_hidden_layers=61, hidden_size=48)
    large = presets.tiny(num_hidden_layers=2, hidden_size=7168)
    assert small.num_nextn_predict_layers == large.num_nextn_predict_layers == 1
    assert [small.is_moe(i) for i in (0, 1, 61)] == [large.is_moe(i) for i in (0, 1, 2)] == [False, True, True]
