"""AdamW with moments in 8 bits: against loops in plain Python, against AdamW on a real loss, and in and out exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from doran.base.config import build as build_settings
from doran.train import adamw8bit
from doran.train.adamw8bit import BLOCK, AdamW8bit
from doran.train.optim import OptimSettings, build_optimizer
from doran.train.pretrain import PretrainSettings, lm_step


def values(count: int, seed: int = 0) -> torch.Tensor:
    """Magnitudes over eight decades, both signs, some zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=generator) * 10 ** (8 * torch.rand(count, generator=generator) - 8)
    return x * (torch.rand(count, generator=generator) > 0.1)


def slow_codes(x: list[float], top: int, power: int) -> tuple[list[int], list[float]]:
    """Codes and scales one number at a time, in double precision."""
    codes, scales = [], []
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        scale = max(max(map(abs, block)), adamw8bit.FLOOR)
        scales.append(scale)
        for value in block:
            code = round(top * (abs(value) / scale) ** (1 / power))
            code = max(code, 1) if power == 4 and value > 0 else code
            codes.append(int(math.copysign(code, value)))
    return codes, scales


@pytest.mark.parametrize("count", [BLOCK * 16, BLOCK * 16 + 77])
def test_codes_equal_the_slow_reference(count: int) -> None:
    x = values(count)
    for given, fast, top, power in (
        (x, adamw8bit.quantise_signed, 127, 2),
        (x.square(), adamw8bit.quantise_positive, 255, 4),
    ):
        codes, scales = fast(given)
        wanted, wanted_scales = slow_codes(given.tolist(), top, power)
        assert len(codes) == count and (codes.int() - torch.tensor(wanted)).abs().max() <= 1  # a tie in fp32
        assert (codes.int() != torch.tensor(wanted)).float().mean() < 0.01
        torch.testing.assert_close(scales, torch.tensor(wanted_scales))


def test_what_codes_stand_for_is_near_what_went_in() -> None:
    x = values(BLOCK * 64)
    scale = x.view(-1, BLOCK).abs().amax(1, keepdim=True).expand(-1, BLOCK).flatten()
    back = adamw8bit.dequantise_signed(*adamw8bit.quantise_signed(x))
    assert ((back - x).abs() <= (x.abs() * scale).sqrt() / 127 + scale / 254**2 + 1e-30).all()  # half a code, squared
    assert torch.equal(back.sign(), torch.where(back == 0, 0.0, x.sign()))
    v, scale = x.square(), scale.square()
    back = adamw8bit.dequantise_positive(*adamw8bit.quantise_positive(v))
    assert torch.equal(back > 0, v > 0), "a positive second moment never becomes 0"
    large = v > scale * (32 / 255) ** 4
    assert ((back / v)[large].log().abs() < 4 * 0.6 / 32).all()


def test_a_step_equals_adamw_on_the_moments_that_the_codes_stand_for() -> None:
    shape, s = (24, 1000), {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}
    p = nn.Parameter(values(shape[0] * shape[1], 1).view(shape).clone())
    optimizer = AdamW8bit([{"params": [p], "weight_decay": 0.1}], **s)
    for step in range(1, 4):
        state = optimizer.state[p]
        m = adamw8bit.dequantise_signed(state["m"], state["m_scale"]) if state else torch.zeros(p.numel())
        v = adamw8bit.dequantise_positive(state["v"], state["v_scale"]) if state else torch.zeros(p.numel())
        g = values(p.numel(), 10 + step)
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        below = (v / (1 - 0.95**step)).sqrt() + 1e-8
        wanted = p.detach().flatten() * (1 - 1e-3) - 1e-2 * (m / (1 - 0.9**step)) / below
        p.grad = g.view(shape)
        optimizer.step()
        torch.testing.assert_close(p.detach().flatten(), wanted, rtol=1e-5, atol=1e-6)
    assert optimizer.state[p]["m"].dtype == torch.int8 and optimizer.state[p]["v"].dtype == torch.uint8


def test_pieces_of_a_tensor_make_the_same_step_as_the_whole(monkeypatch) -> None:
    found = []
    for chunk in (1 << 18, 4 * BLOCK):
        monkeypatch.setattr(adamw8bit, "CHUNK", chunk)
        p = nn.Parameter(values(9000, 1).clone())
        optimizer = AdamW8bit([p], lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
        for step in range(3):
            p.grad = values(9000, 20 + step)
            optimizer.step()
        found.append((p.detach(), optimizer.state[p]))
    (p, one), (q, two) = found
    assert torch.equal(p, q) and all(torch.equal(one[kind], two[kind]) for kind in one)


def test_learning_goes_as_with_adamw(make_model, counting) -> None:
    """The same 40 steps: both come down, and their losses stay within 5% of each other."""
    ends = {}
    for kind in ("adamw", "adamw8bit"):
        model = make_model(model_type="qwen2", intermediate_size=512)  # matrices large enough for codes
        settings = build_settings(PretrainSettings, {"optimizer": kind, "lr": 3e-3, "bf16": False})
        optimizer, batches = build_optimizer(model, settings), counting(0)
        losses = [float(lm_step(model, optimizer, [next(batches)], settings, 1.0)["loss"]) for _ in range(40)]
        ends[kind] = sum(losses[-5:]) / 5
        assert ends[kind] < 0.5 * losses[0]
        coarse = [s for s in optimizer.parts[0].state.values() if "m_scale" in s]
        assert bool(coarse) == (kind == "adamw8bit")
    assert ends["adamw8bit"] == pytest.approx(ends["adamw"], rel=0.05)


def test_state_goes_out_and_in_exactly_and_is_small(make_model) -> None:
    settings = build_settings(OptimSettings, {"optimizer": "adamw8bit", "lr": 1e-2})
    a, b = (make_model(intermediate_size=512) for _ in range(2))
    one, two = (build_optimizer(m, settings) for m in (a, b))
    for model, optimizer in ((a, one), (b, two)):
        for p in model.parameters():
            p.grad = values(p.numel(), 3).view_as(p)
        if optimizer is two:
            two.load_state_tensors(one.state_tensors())
            b.load_state_dict(a.state_dict())
        else:
            one.step()
            for p in model.parameters():
                p.grad = values(p.numel(), 3).view_as(p)
    one.step(0.3)
    two.step(0.3)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    large = {n for n, p in a.named_parameters() if p.numel() >= adamw8bit.SMALLEST}
    held = {key: t for key, t in one.state_tensors().items() if key.partition("/")[2] in large}
    stored = sum(t.numel() * t.element_size() for t in held.values())
    assert stored < 2.1 * sum(p.numel() for n, p in a.named_parameters() if n in large)
