"""One definition for all: names, seeds, packing, precision, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from doran.arch import presets
from doran.arch.config import FAMILIES
from doran.layers.attention import PackedAttend
from doran.layers.moe import RouterStats
from doran.models.decoder import Decoder
from doran.models.families import build, empty

TOKENS = torch.randint(0, 96, (24,), generator=torch.Generator().manual_seed(0))
LENGTHS = [7, 12, 5]


def _positions() -> Tensor:
    return torch.cat([torch.arange(n) for n in LENGTHS])


def _attend() -> PackedAttend:
    return PackedAttend([0, 7, 19, 24])


def _loss(model: Decoder) -> Tensor:
    h = model(TOKENS, _positions(), _attend())
    loss = torch.nn.functional.cross_entropy(model.logits(h[:-1]).float(), TOKENS[1:])
    if model.has_mtp:
        h = model.mtp(h, TOKENS.roll(-1), _positions(), _attend())
        loss = loss + torch.nn.functional.cross_entropy(model.logits(h[:-2]).float(), TOKENS[2:])
    return loss


def test_deepseek_v3_on_the_meta_device_has_its_published_parameters() -> None:  # r1-facts 8.1
    model = empty(presets.deepseek_v3())
    held = [*model.named_parameters(), *model.named_buffers()]
    assert sum(t.numel() for name, t in held if ".layers.61." not in name) == 671_026_419_200


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_packed_sequences_do_not_see_one_another(family: str) -> None:
    model = build(presets.tiny(family))
    packed = model(TOKENS, _positions(), _attend()).split(LENGTHS)
    for tokens, h in zip(TOKENS.split(LENGTHS), packed):
        alone = model(tokens, torch.arange(len(tokens)), PackedAttend([0, len(tokens)]))
        assert torch.allclose(alone, h, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_builds_the_same_model_and_gradients_repeat_bit_for_bit(family: str) -> None:
    grads = []
    for _ in range(2):
        model = build(presets.tiny(family), seed=4)
        _loss(model).backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(a is not None and torch.equal(a, b) for a, b in zip(*grads))
    other = build(presets.tiny(family), seed=5)
    assert not torch.equal(other.model.embed_tokens.weight, model.model.embed_tokens.weight)


def test_initialization_has_the_configured_spread() -> None:
    model = build(presets.tiny(initializer_range=0.01))
    assert model.lm_head is not None
    assert model.lm_head.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert all((p == 1).all() for name, p in model.named_parameters() if "norm" in name)


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_stays_close_to_fp32_and_leaves_fp32_gradients(family: str) -> None:
    model = build(presets.tiny(family))
    exact = _loss(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = _loss(model)
    rough.backward()
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_stats_do_not_change_the_result() -> None:
    model = build(presets.tiny())
    with torch.no_grad():
        assert torch.equal(
            model(TOKENS, _positions(), _attend()), model(TOKENS, _positions(), _attend(), RouterStats())
        )


@pytest.mark.parametrize(
    "changes",
    [{"n_routed_experts": 0, "first_k_dense_replace": 3}, {"n_shared_experts": 0}, {"num_nextn_predict_layers": 0}],
)
def test_parts_can_be_left_out(changes: dict) -> None:
    model = build(presets.tiny(**changes))
    _loss(model).backward()
    assert model.has_mtp == (changes.get("num_nextn_predict_layers", 1) > 0)
