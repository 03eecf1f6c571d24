"""Folders in and out: transformers' logits and greedy tokens, MTP, FP8, shards, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from doran.arch import presets
from doran.arch.config import ModelConfig, load_config
from doran.arch.rope_scaling import RopeScaling
from doran.arch.tensors import tensors
from doran.base.errors import ArtifactError, ConfigError
from doran.layers.attention import CacheAttend, PackedAttend
from doran.layers.cache import make_cache
from doran.models.decoder import Decoder
from doran.models.families import build
from doran.models.weights import load_model, save_model

YARN = RopeScaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, mscale=1.0, mscale_all_dim=1.0)
LLAMA3 = RopeScaling(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)
SHAPES: dict[str, tuple[str, dict]] = {
    "v3": ("deepseek_v3", {}),
    "v3-yarn-tied": ("deepseek_v3", {"rope_scaling": YARN, "tie_word_embeddings": True}),
    "v3-no-q-lora": ("deepseek_v3", {"q_lora_rank": None, "attention_bias": True, "rms_norm_eps": 1e-5}),
    "v3-halves": ("deepseek_v3", {"rope_interleave": False, "norm_topk_prob": False, "n_shared_experts": 2}),
    "llama": ("llama", {"rope_scaling": LLAMA3}),
    "llama-tied-biased": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied-yarn": ("qwen2", {"tie_word_embeddings": True, "rope_scaling": RopeScaling(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=32)}),
    "qwen3": ("qwen3", {}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
}  # fmt: skip
TOKENS = torch.randint(2, 96, (50,), generator=torch.Generator().manual_seed(5))


def _model(config: ModelConfig) -> Decoder:
    """Random weights, with norms, biases and router biases off their neutral values."""
    model, generator = build(config, seed=1), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "norm" in name or "bias" in name:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.05)
    return model


@torch.no_grad()
def _logits(model: Decoder, tokens: Tensor = TOKENS) -> Tensor:
    return model.logits(model(tokens, torch.arange(len(tokens)), PackedAttend([0, len(tokens)])))


@torch.no_grad()
def _greedy(model: Decoder, prompt: Tensor, count: int) -> list[int]:
    """By the cache: one prefill, then one token at a time."""
    cache, out = make_cache(model.config, 1, len(prompt) + count), []
    h = model(prompt, torch.arange(len(prompt)), CacheAttend.prefill(cache, [0], [0, len(prompt)]))
    for at in range(len(prompt), len(prompt) + count):
        out.append(int(model.logits(h[-1:]).argmax()))
        h = model(torch.tensor(out[-1:]), torch.tensor([at]), CacheAttend.decode(cache, [0], [at]))
    return out


def _transformers(folder: Path):  # type: ignore[no-untyped-def]
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_transformers_loads_ours_and_we_load_what_it_saves(shape: str, tmp_path: Path) -> None:
    family, changes = SHAPES[shape]
    ours = _model(presets.tiny(family, **changes))
    save_model(ours, tmp_path / "ours", max_shard_bytes=10**9 if "tied" in shape else 60_000)
    theirs = _transformers(tmp_path / "ours")
    logits = theirs(TOKENS[None]).logits[0]
    assert (_logits(ours) - logits).abs().max() < 1e-4

    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="60KB" if "tied" in shape else "1GB")
    back = load_model(tmp_path / "theirs")
    assert not back.has_mtp  # transformers does not keep it
    assert (_logits(back) - logits).abs().max() < 1e-4

    prompt = TOKENS[:7]
    told = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(prompt[None], attention_mask=torch.ones(1, 7, dtype=torch.long), **told)[0, 7:].tolist()
    assert _greedy(back, prompt, 12) == _greedy(ours, prompt, 12) == expected


@pytest.mark.parametrize("limit", [10**9, 50_000])
@pytest.mark.parametrize("shape", ["v3", "v3-yarn-tied", "qwen2-tied-yarn"])
def test_saving_and_loading_is_bit_exact(shape: str, limit: int, tmp_path: Path) -> None:
    family, changes = SHAPES[shape]
    model = _model(presets.tiny(family, **changes))
    save_model(model, tmp_path, max_shard_bytes=limit)
    back = load_model(tmp_path)
    assert list(back.state_dict()) == list(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), back.state_dict().values()))
    assert back.config == ModelConfig(**{**model.config.__dict__, "torch_dtype": "float32"})


def test_the_file_holds_exactly_the_counted_tensors(tmp_path: Path) -> None:
    config = presets.tiny()
    save_model(build(config), tmp_path)
    held = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    assert held == dict(tensors(config))
    assert {"model.layers.3.enorm.weight", "model.layers.1.mlp.experts.7.gate_proj.weight"} <= set(held)
    assert "model.layers.3.embed_tokens.weight" not in held


def test_released_duplicates_in_the_mtp_layer_are_accepted(tmp_path: Path) -> None:
    model = _model(presets.tiny())
    save_model(model, tmp_path)
    path = tmp_path / "model.safetensors"
    held = load_file(path)
    held["model.layers.3.embed_tokens.weight"] = held["model.embed_tokens.weight"].clone()
    held["model.layers.3.shared_head.head.weight"] = held["lm_head.weight"].clone()
    save_file(held, path)
    assert load_model(tmp_path).has_mtp


def test_a_duplicated_tied_head_is_accepted(tmp_path: Path) -> None:
    save_model(_model(presets.tiny("qwen2", tie_word_embeddings=True)), tmp_path)
    path = tmp_path / "model.safetensors"
    held = load_file(path)
    save_file({**held, "lm_head.weight": held["model.embed_tokens.weight"].clone()}, path)
    load_model(tmp_path)


def test_bf16_in_memory_keeps_router_and_bias_in_fp32(tmp_path: Path) -> None:
    save_model(_model(presets.tiny()), tmp_path)
    state = load_model(tmp_path, dtype=torch.bfloat16).state_dict()
    kept = {name for name, tensor in state.items() if tensor.dtype == torch.float32}
    assert kept == {n for n in state if n.endswith((".mlp.gate.weight", "e_score_correction_bias"))}


@pytest.mark.parametrize("family", ["deepseek_v3", "llama"])
def test_fp8_folders_store_blocks_and_load_close(family: str, tmp_path: Path) -> None:
    config = presets.tiny(family, hidden_size=160, intermediate_size=144)
    model = _model(config)
    save_model(model, tmp_path, quantize="fp8")
    held = load_file(tmp_path / "model.safetensors")
    assert load_config(tmp_path).quantization_config["weight_block_size"] == [128, 128]  # type: ignore[index]
    name = "model.layers.0.mlp.gate_proj.weight"
    assert held[name].dtype == torch.float8_e4m3fn
    assert held[name + "_scale_inv"].shape == (2, 2) and held[name + "_scale_inv"].dtype == torch.float32
    plain = ("embed_tokens", "lm_head", "norm", ".mlp.gate.", "eh_proj", "bias")
    for stored, tensor in held.items():
        assert (tensor.dtype == torch.float8_e4m3fn) == (
            not any(word in stored for word in plain) and not stored.endswith("_scale_inv")
        )
    back = load_model(tmp_path)
    for a, b in zip(model.state_dict().values(), back.state_dict().values()):
        assert (a - b).abs().max() <= a.abs().max() * 2**-4


def test_a_missing_fp8_scale_is_named(tmp_path: Path) -> None:
    save_model(build(presets.tiny()), tmp_path, quantize="fp8")
    path = tmp_path / "model.safetensors"
    held = load_file(path)
    del held["model.layers.0.self_attn.o_proj.weight_scale_inv"]
    save_file(held, path)
    with pytest.raises(ArtifactError, match="o_proj.weight_scale_inv is missing"):
        load_model(tmp_path)


def _damage(folder: Path, change: str) -> None:
    path = folder / "model.safetensors"
    held, name = load_file(path), "model.layers.1.mlp.experts.3.up_proj.weight"
    if change == "missing tensor":
        del held[name]
    elif change == "unexpected tensor":
        held["model.layers.1.mlp.experts.8.up_proj.weight"] = held[name].clone()
    elif change == "wrong shape":
        held[name] = held[name][:-1].clone()
    elif change == "half an MTP module":
        held = {k: v for k, v in held.items() if not k.startswith("model.layers.3.eh_proj")}
    save_file(held, path)
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif change == "no file":
        path.unlink()
    elif change == "no config":
        (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing tensor", "experts.3.up_proj.weight is missing"),
        ("unexpected tensor", "unexpected tensor model.layers.1.mlp.experts.8.up_proj.weight"),
        ("wrong shape", r"experts.3.up_proj.weight is \[31, 48\], config.json asks for \[32, 48\]"),
        ("half an MTP module", "model.layers.3.eh_proj.weight is missing"),
        ("truncated", "truncated or corrupt"),
        ("no file", "model.safetensors is missing"),
        ("no config", "config.json is missing|config.json: no such file"),
    ],
)
def test_damaged_folders_are_one_clear_line(change: str, message: str, tmp_path: Path) -> None:
    save_model(build(presets.tiny()), tmp_path)
    _damage(tmp_path, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("change", [{"model_type": "gpt9"}, {"hiden_size": 3}])
def test_foreign_configs_are_refused(change: dict, tmp_path: Path) -> None:
    save_model(build(presets.tiny()), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError):
        load_model(tmp_path)


def test_an_interrupted_save_leaves_no_folder_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from doran.formats import safetensors_folder as sf

    model = build(presets.tiny())
    save_model(model, tmp_path)
    real, calls = sf.write_file, []

    def dies(path: Path, held: dict[str, Tensor]) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(path, held)

    monkeypatch.setattr(sf, "write_file", dies)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, tmp_path, max_shard_bytes=50_000)
    with pytest.raises(ArtifactError, match="config.json"):
        load_model(tmp_path)


def test_other_files_of_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    save_model(build(presets.tiny("llama")), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
