"""Optimizers against slow references, and their state in and out."""

from __future__ import annotations

import pytest
import torch

from doran.base.config import build as build_settings
from doran.base.errors import ArtifactError
from doran.train.optim import NEWTON_SCHULZ, OptimSettings, build_optimizer, is_hidden_matrix, orthogonalise


def settings(**changes: object) -> OptimSettings:
    return build_settings(OptimSettings, {"lr": 1e-2, **changes})


def give_gradients(model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def slow_newton_schulz(g: torch.Tensor) -> torch.Tensor:
    """The quintic on the singular values of one matrix, in float64: U f(f(...f(S))) V^T."""
    a, b, c = NEWTON_SCHULZ
    u, s, v = torch.linalg.svd(g.double(), full_matrices=False)
    s = s / (g.double().norm() + 1e-7)
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    return (u @ torch.diag(s) @ v).float()


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (12, 12)])
def test_newton_schulz_equals_its_polynomial_on_singular_values(shape: tuple[int, int]) -> None:
    g = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    slow = torch.stack([slow_newton_schulz(m) for m in g])
    torch.testing.assert_close(orthogonalise(g, dtype=torch.float32), slow, rtol=1e-3, atol=1e-4)
    assert (orthogonalise(g) - slow).norm() < 0.03 * slow.norm()


def test_newton_schulz_brings_singular_values_near_one() -> None:
    g = torch.randn(1, 16, 48, generator=torch.Generator().manual_seed(1))
    s = torch.linalg.svdvals(orthogonalise(g)[0])
    assert s.min() > 0.6 and s.max() < 1.3
    assert (orthogonalise(torch.zeros(1, 4, 4)) == 0).all()


def test_muon_equals_a_matrix_by_matrix_reference(make_model) -> None:
    model, s = make_model(), settings(optimizer="muon", grad_clip=0.0, weight_decay=0.1, muon_lr=2e-2)
    optimizer = build_optimizer(model, s)
    slow = {n: p.detach().clone() for n, p in model.named_parameters() if is_hidden_matrix(n, p)}
    start = dict(slow)
    momentum = {n: torch.zeros_like(p) for n, p in slow.items()}
    assert any(p.ndim == 3 for p in slow.values())
    for step in range(3):
        give_gradients(model, step)
        grads = {n: p.grad.clone() for n, p in model.named_parameters()}
        optimizer.step(0.5)
        for n, p in slow.items():
            momentum[n] = 0.95 * momentum[n] + grads[n]
            nesterov = grads[n] + 0.95 * momentum[n]
            matrices = nesterov if p.ndim == 3 else nesterov[None]
            update = torch.stack([slow_newton_schulz(m) for m in matrices]).view_as(p)
            lr, scale = 0.5 * 2e-2, 0.2 * max(p.shape[-2:]) ** 0.5
            slow[n] = p * (1 - lr * 0.1) - lr * scale * update
    now = dict(model.named_parameters())
    for n, p in slow.items():
        assert (now[n].detach() - p).norm() < 0.05 * (p - start[n]).norm(), n


def test_muon_takes_hidden_matrices_and_leaves_the_rest_to_adamw(make_model) -> None:
    names = {n for n, p in make_model().named_parameters() if is_hidden_matrix(n, p)}
    assert "model.layers.1.mlp.experts.gate_up_proj" in names and "model.layers.2.eh_proj.weight" in names
    assert "model.layers.0.self_attn.kv_b_proj.weight" in names
    assert not [n for n in names if "norm" in n or "embed" in n or "lm_head" in n or n.endswith("gate.weight")]


def test_muon_update_has_adamws_size(make_model) -> None:
    model = make_model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    give_gradients(model, 0)
    build_optimizer(model, settings(optimizer="muon", grad_clip=0.0, weight_decay=0.0)).step()
    for n, p in model.named_parameters():
        if is_hidden_matrix(n, p):
            rms = (p.detach() - before[n]).square().mean().sqrt().item() / 1e-2
            assert 0.1 < rms < 0.35, n


def test_adamw_decays_matrices_only_and_equals_torchs_plain_one(make_model) -> None:
    a, b = make_model(), make_model()
    fast = build_optimizer(a, settings(grad_clip=0.0))
    groups = [
        {"params": [p for p in b.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in b.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    slow = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    for step in range(3):
        give_gradients(a, step)
        give_gradients(b, step)
        fast.step()
        slow.step()
    for p, q in zip(a.parameters(), b.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_clipping_scales_the_global_norm_and_reports_it(make_model) -> None:
    model = make_model(model_type="llama")
    optimizer = build_optimizer(model, settings(grad_clip=0.5))
    seen = {}
    optimizer.parts[0].register_step_pre_hook(
        lambda *_: seen.update(norm=torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())
    )
    give_gradients(model, 0)
    expected = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert optimizer.step().item() == pytest.approx(expected, rel=1e-4)
    assert seen["norm"] == pytest.approx(0.5, rel=1e-3)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_goes_out_and_in_exactly(make_model, kind: str) -> None:
    a, b = make_model(), make_model()
    one, two = (build_optimizer(m, settings(optimizer=kind)) for m in (a, b))
    give_gradients(a, 0)
    one.step()
    b.load_state_dict(a.state_dict())
    two.load_state_tensors(one.state_tensors())
    for model, optimizer in ((a, one), (b, two)):
        give_gradients(model, 1)
        optimizer.step(0.3)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def test_parameters_without_gradient_stay(make_model) -> None:
    model = make_model()
    optimizer = build_optimizer(model, settings(optimizer="muon"))
    give_gradients(model, 0)
    still = [p for n, p in model.named_parameters() if n.startswith("model.layers.2.")]
    before = [p.detach().clone() for p in still]
    for p in still:
        p.grad = None
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(still, before))


def test_state_of_another_model_is_refused(make_model) -> None:
    model = make_model()
    optimizer = build_optimizer(model, settings())
    give_gradients(model, 0)
    optimizer.step()
    other = build_optimizer(make_model(model_type="llama"), settings())
    with pytest.raises(ArtifactError, match="does not have"):
        other.load_state_tensors(optimizer.state_tensors())
