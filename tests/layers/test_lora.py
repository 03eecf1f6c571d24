"""LoRA: nothing changes at first, merged equals adapted, PEFT computes the same, and only adapters are trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from doran.arch.presets import tiny
from doran.base.errors import ArtifactError, UsageError
from doran.formats.peft import read_peft
from doran.layers.attention import PackedAttend
from doran.layers.lora import add_lora, lora_layers, merged
from doran.models.adapters import load_adapter, save_adapter
from doran.models.decoder import Decoder
from doran.models.families import build
from doran.models.weights import load_model, save_model

FAMILIES = ("llama", "qwen2", "qwen3", "deepseek_v3")


def small(family: str) -> Decoder:
    changes = {"num_nextn_predict_layers": 0} if family == "deepseek_v3" else {}
    return build(tiny(family, vocab_size=40, hidden_size=32, num_hidden_layers=2, **changes), seed=1)


def logits(model: Decoder) -> torch.Tensor:
    tokens = torch.arange(12) % 40
    return model.logits(model(tokens, torch.arange(12), PackedAttend(torch.tensor([0, 12], dtype=torch.int32))))


def shaken(model: Decoder, rank: int = 4, alpha: float = 8.0) -> Decoder:
    add_lora(model, rank, alpha)
    generator = torch.Generator().manual_seed(3)
    for layer in lora_layers(model).values():
        layer.lora_B.data.normal_(0, 0.3, generator=generator)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_it_begins_as_the_base_and_merging_changes_nothing_but_rounding(family: str) -> None:
    model = small(family)
    base = logits(model).detach()
    before = dict(model.named_parameters())
    add_lora(model, 4, 8.0)
    torch.testing.assert_close(logits(model), base)
    for layer in lora_layers(model).values():
        layer.lora_B.data.normal_(0, 0.3)
    adapted = logits(model)
    assert (adapted - base).abs().max() > 1e-3
    with merged(model):
        assert set(dict(model.named_parameters())) == set(before)
        torch.testing.assert_close(logits(model), adapted, atol=2e-5, rtol=1e-4)
    assert all(dict(model.named_parameters())[n] is p for n, p in before.items())
    adapted.sum().backward()
    assert all(layer.lora_A.grad is not None and layer.weight.grad is None for layer in lora_layers(model).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_peft_library_computes_the_same_and_reads_back(family: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="the peft library is not installed")
    from transformers import AutoModelForCausalLM

    model = small(family)
    save_model(model, tmp_path / "base")
    save_adapter(shaken(model), tmp_path / "adapter", str(tmp_path / "base"))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    got = theirs(torch.arange(12)[None] % 40).logits[0]
    torch.testing.assert_close(got, logits(model), atol=5e-5, rtol=1e-3)
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_model(tmp_path / "base")
    load_adapter(again, tmp_path / "theirs")
    assert torch.equal(logits(again), logits(model))


def test_wrong_targets_and_adapters_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no layer has 'q_pro'.*q_proj"):
        add_lora(small("llama"), 2, 2.0, ["q_pro"])
    with pytest.raises(UsageError, match="gate_proj beside routed experts.*kv_b_proj"):
        add_lora(small("deepseek_v3"), 2, 2.0, ["o_proj", "gate_proj"])
    with pytest.raises(ArtifactError, match="no adapter_config.json"):
        read_peft(tmp_path)
    save_adapter(shaken(small("llama")), tmp_path)
    with pytest.raises(ArtifactError, match="does not fit this model"):
        load_adapter(build(tiny("llama", vocab_size=40, hidden_size=64, num_hidden_layers=2)), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_peft(tmp_path)
