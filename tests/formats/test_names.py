"""Experts' names: stacks to tensors and back."""

from __future__ import annotations

import torch

from doran.formats.names import place, unstack


def test_unstack_and_place_are_inverse() -> None:
    stack = torch.randn(3, 8, 5)
    copy = torch.zeros_like(stack)
    for name, tensor in unstack("model.layers.1.mlp.experts.gate_up_proj", stack):
        spot = place(name)
        assert spot.parameter == "model.layers.1.mlp.experts.gate_up_proj"
        spot.view(copy).copy_(tensor)
    assert torch.equal(stack, copy)


def test_the_gate_is_the_upper_half_of_its_row() -> None:
    stack = torch.arange(2 * 4 * 1.0).view(2, 4, 1)
    named = dict(unstack("m.mlp.experts.gate_up_proj", stack))
    assert named["m.mlp.experts.1.gate_proj.weight"].flatten().tolist() == [4, 5]
    assert named["m.mlp.experts.1.up_proj.weight"].flatten().tolist() == [6, 7]


def test_shared_experts_and_all_else_keep_their_names() -> None:
    for name in ("model.layers.1.mlp.shared_experts.gate_proj.weight", "lm_head.weight", "model.norm.weight"):
        assert place(name) == (name, None, None)
        assert [n for n, _ in unstack(name, torch.zeros(2, 2))] == [name]
