"""doran export: each form is read back and replayed; what a form cannot hold is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from doran.arch.config import ModelConfig
from doran.cli import app
from doran.models.families import build
from doran.models.weights import load_model, save_model
from doran.text.tokenizer import Tokenizer


def test_gguf_needs_a_word_for_a_tokenizer_llama_cpp_cannot_cut(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.gguf"
    command = ["export", "--model", str(tiny_model), "--format", "gguf", "--out", str(out), "--json"]
    assert app.run(command) == 2
    assert "--accept tokenizer" in capsys.readouterr().err and not out.exists()
    assert app.run([*command, "--accept", "tokenizer"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["replay"]["logit_difference"] < 1e-3 and facts["chats"] == "same" and "tokenizer" in facts["lost"]
    assert app.run(["generate", "--model", str(out), "--prompt", "3 + 4 =", "--max-new-tokens", "3", "--json"]) == 0
    capsys.readouterr()
    back = tmp_path / "back"
    assert app.run(["export", "--model", str(out), "--format", "hf", "--out", str(back), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["replay"]["logit_difference"] < 1e-3 and facts["chats"] == "same"
    text = "도란도란 3 + 4"
    assert Tokenizer.load(back).encode(text) == Tokenizer.load(tiny_model).encode(text)


def test_mtp_weights_are_not_dropped_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ModelConfig(
        model_type="deepseek_v3", vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
        first_k_dense_replace=2, num_nextn_predict_layers=1,
    )  # fmt: skip
    save_model(build(config), tmp_path / "m")
    command = ["export", "--model", str(tmp_path / "m"), "--format", "gguf", "--out", str(tmp_path / "m.gguf")]
    assert app.run(command) == 2
    assert "--accept mtp" in capsys.readouterr().err
    assert app.run([*command, "--accept", "mtp"]) == 0
    assert "left behind (mtp)" in capsys.readouterr().out


def test_an_adapter_holds_a_low_rank_change_and_refuses_more(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(tiny_model)
    with torch.no_grad():
        weight = model.get_submodule("model.layers.1.self_attn.q_proj").weight
        weight += torch.randn(weight.shape[0], 2) @ torch.randn(2, weight.shape[1]) * 0.1
    trained = tmp_path / "trained"
    save_model(model, trained)
    Tokenizer.load(tiny_model).save(trained)
    command = ["export", "--model", str(trained), "--format", "peft", "--base", str(tiny_model), "--json"]
    assert app.run([*command, "--rank", "1", "--out", str(tmp_path / "a")]) == 2
    assert "--rank" in capsys.readouterr().err and not (tmp_path / "a").exists()
    assert app.run([*command, "--rank", "2", "--out", str(tmp_path / "b")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["replay"]["logit_difference"] < 1e-2 and facts["modules"] == 1
    written = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert written["target_modules"] == ["q_proj"] and written["r"] == 2


def test_wrong_uses_are_refused(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["export", "--model", str(tiny_model), "--out", str(tmp_path / "x")]
    for wrong in (
        ["--format", "onnx"],
        ["--format", "peft"],
        ["--format", "hf", "--base", "."],
        ["--format", "hf", "--type", "q3"],
    ):
        assert app.run([*start, *wrong]) == 2
    assert not (tmp_path / "x").exists() and capsys.readouterr().err
