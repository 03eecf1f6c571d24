"""Activation checkpointing changes what is kept, never what comes out: gradients, loads and weights to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from grpo_kit import run as run_rl

from doran.base.config import build as build_settings
from doran.data.packing import Pack
from doran.layers.lora import add_lora
from doran.layers.moe import RouterStats
from doran.models.decoder import Decoder
from doran.train.pretrain import PretrainSettings, lm_loss, run_pretrain
from doran.train.sft import SftSettings, run_sft

KINDS = [("deepseek_v3", False), ("deepseek_v3", True), ("llama", True), ("qwen2", True), ("qwen3", True)]


def gradients(model: Decoder, pack: Pack, bf16: bool) -> tuple[dict[str, torch.Tensor], RouterStats, dict[str, Any]]:
    """Of next-token, MTP (on every second document) and balance loss together."""
    s = build_settings(PretrainSettings, {"balance_alpha": 0.1, "mtp_share": 0.5})
    stats = RouterStats()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        objective, parts = lm_loss(model, pack, stats, s, 100, 1)
    objective.backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for p in model.parameters():
        p.grad = None
    return found, stats, parts


@pytest.mark.parametrize(("model_type", "bf16"), KINDS)
@pytest.mark.parametrize("adapted", [False, True])
def test_gradients_losses_and_loads_are_the_same_bits(make_model, counting, model_type, bf16, adapted) -> None:
    model, pack = make_model(model_type=model_type), next(counting(0))
    if adapted:
        add_lora(model, 2, 4.0)
        for name, p in model.named_parameters():
            if name.endswith("lora_B"):
                torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(1))
    plain, stats, parts = gradients(model, pack, bf16)
    model.activation_checkpointing = True
    again, stats_again, parts_again = gradients(model, pack, bf16)
    assert plain and plain.keys() == again.keys()
    assert [n for n in plain if not torch.equal(plain[n], again[n])] == []
    assert all(torch.equal(stats.loads[i], stats_again.loads[i]) for i in stats.loads)
    assert stats.loads.keys() == stats_again.loads.keys()
    assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(parts_again[k])) for k, v in parts.items())


def kept_bytes(model: Decoder, pack: Pack) -> int:
    """Bytes of the different tensors, parameters left out, that one forward keeps for its backward."""
    own, kept = {p.data_ptr() for p in model.parameters()}, {}

    def note(t: torch.Tensor) -> torch.Tensor:
        if t.data_ptr() not in own:
            kept[t.data_ptr()] = t.numel() * t.element_size()
        return t

    from doran.layers.attention import PackedAttend

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        model(pack.tokens_T, pack.positions_T, PackedAttend(pack.cu_seqlens))
    return sum(kept.values())


@pytest.mark.parametrize("model_type", ["deepseek_v3", "qwen2"])
def test_much_less_is_kept(make_model, counting, model_type) -> None:
    model, pack = make_model(model_type=model_type), next(counting(0))
    plain = kept_bytes(model, pack)
    model.activation_checkpointing = True
    assert kept_bytes(model, pack) < 0.3 * plain


def weights(out) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def test_trainers_end_with_the_same_weights_and_a_run_may_switch(make_model, counting, tmp_path) -> None:
    samples = [([i, i + 1, i + 2, i + 3], [False, True, True, True]) for i in range(20)]
    sft = {"tokens_per_batch": 24, "epochs": 1, "warmup_steps": 0}
    for name, change in (("plain", {}), ("less", {"activation_checkpointing": True})):
        run_sft(make_model(), samples, build_settings(SftSettings, sft | change), tmp_path / f"sft-{name}")
        run_rl(make_model(), tmp_path / f"rl-{name}", steps=2, minibatches=2, **change)
        s = build_settings(PretrainSettings, {"steps": 3, "tokens_per_batch": 64} | change)
        run_pretrain(make_model(), counting, s, tmp_path / f"pretrain-{name}")
    for verb in ("sft", "rl", "pretrain"):
        assert weights(tmp_path / f"{verb}-plain") == weights(tmp_path / f"{verb}-less"), verb
    folder = tmp_path / "pretrain-plain"
    before = weights(folder)
    s = build_settings(PretrainSettings, {"steps": 3, "tokens_per_batch": 64, "activation_checkpointing": True})
    run_pretrain(make_model(), counting, s, folder)  # the same run goes on, with the switch or without
    assert weights(folder) == before
