"""Router, experts and balancing: DeepSeek-V3's equations, and the traps of public code."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from doran.arch import presets
from doran.arch.config import ModelConfig
from doran.layers.attention import PackedAttend
from doran.layers.moe import Experts, MoE, Router, RouterStats, balance_loss, update_router_bias
from doran.models.families import build

WIDE = presets.tiny(n_routed_experts=32, n_group=8, topk_group=4, num_experts_per_tok=8)


def _router(config: ModelConfig, bias: float | None = None) -> Router:
    router = Router(config)
    nn.init.normal_(router.weight, std=0.3)
    if bias is None:
        router.e_score_correction_bias.normal_(0, 0.1)
    else:
        router.e_score_correction_bias.fill_(bias)
    return router


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_weights_sum_to_the_scaling_factor_and_few_groups_are_hit(seed: int, scale: float) -> None:  # r1-facts 8.7
    torch.manual_seed(seed)
    router, x = _router(WIDE), torch.randn(20, WIDE.hidden_size) * scale
    weights, experts, scores = router(x)
    assert torch.allclose(weights.sum(-1), torch.tensor(2.5))
    for row in experts.tolist():
        assert len(set(row)) == 8 and len({e // 4 for e in row}) <= 4
    chosen = scores.gather(1, experts)  # unbiased
    assert torch.allclose(weights, 2.5 * chosen / chosen.sum(-1, keepdim=True), atol=1e-6)


def test_the_choice_is_the_equations_written_slowly() -> None:
    router = _router(WIDE)
    scores = torch.rand(50, 32)
    for row, chosen in zip(scores + router.e_score_correction_bias, router.choose(scores)):
        groups = sorted(range(8), key=lambda g: -sum(sorted(row[4 * g : 4 * g + 4].tolist())[-2:]))[:4]
        allowed = [e for g in groups for e in range(4 * g, 4 * g + 4)]
        assert set(chosen.tolist()) == set(sorted(allowed, key=lambda e: -row[e].item())[:8])


def test_negative_biases_tell_the_two_masks_apart() -> None:
    x = torch.randn(200, WIDE.hidden_size)
    strict = _router(WIDE, bias=-1.5)
    loose = Router(replace(WIDE, masked_group_score="zero"))
    loose.load_state_dict(strict.state_dict())

    def strays(router: Router) -> int:
        _, experts, scores = router(x)
        pairs = (scores - 1.5).unflatten(-1, (8, 4)).topk(2).values.sum(-1)
        kept = pairs.topk(4).indices
        return sum(not set((e // 4).tolist()) <= set(k.tolist()) for e, k in zip(experts, kept))

    assert (strays(strict), strays(loose)) == (0, 200)


def test_the_masks_agree_while_biased_scores_are_positive() -> None:
    strict = _router(WIDE, bias=0.0)
    loose = Router(replace(WIDE, masked_group_score="zero"))
    loose.load_state_dict(strict.state_dict())
    x = torch.randn(50, WIDE.hidden_size)
    assert all(torch.equal(a.sort().values, b.sort().values) for a, b in zip(strict(x), loose(x)))


def test_transformers_routes_as_our_default() -> None:
    pytest.importorskip("transformers")
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

    theirs = DeepseekV3TopkRouter(DeepseekV3Config(**{k: v for k, v in WIDE.to_hf().items() if k != "architectures"}))
    x = torch.randn(50, WIDE.hidden_size)
    for bias in (0.0, 0.1):  # where every version of transformers agrees
        ours = _router(WIDE, bias)
        theirs.load_state_dict(ours.state_dict())
        _, weights, experts = theirs(x)
        for a, b in ((ours(x)[0], weights), (ours(x)[1], experts)):
            assert torch.allclose(a.sort().values.float(), b.sort().values.float(), atol=1e-6)


def test_the_router_is_fp32_under_autocast_and_with_bf16_input() -> None:
    router, x = _router(WIDE), torch.randn(10, WIDE.hidden_size).bfloat16()
    expected = router(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = router(x)
    assert all(torch.equal(a, b) for a, b in zip(expected, inside)) and inside[0].dtype == torch.float32


def test_a_model_in_bf16_keeps_its_router_in_fp32() -> None:
    gate = build(presets.tiny(), dtype=torch.bfloat16).model.layers[1].mlp.gate
    assert gate.weight.dtype == gate.e_score_correction_bias.dtype == torch.float32


def _experts(config: ModelConfig) -> Experts:
    experts = Experts(config)
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.1)
    return experts


@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_sorted_experts_equal_the_slow_loop_with_gradients(tokens: int) -> None:
    config = presets.tiny()
    experts, router = _experts(config), _router(config)
    x = torch.randn(tokens, config.hidden_size, requires_grad=True)
    weights, chosen, _ = router(x)
    inputs = (x, weights, *experts.parameters())
    probe = torch.randn(tokens, config.hidden_size)
    results = []
    for function in (experts, experts.slow, experts):
        out = function(x, weights, chosen)
        results.append((out, *torch.autograd.grad((out * probe).sum(), inputs, retain_graph=True)))
    fast, slow, again = results
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(fast, slow))
    assert all(torch.equal(a, b) for a, b in zip(fast, again))


def test_no_token_is_dropped_when_all_choose_the_same_expert() -> None:
    config = presets.tiny()
    experts, x = _experts(config), torch.randn(30, config.hidden_size)
    chosen = torch.tensor([[3, 5]]).expand(30, 2)
    weights = torch.full((30, 2), 0.5)
    assert torch.allclose(experts(x, weights, chosen), experts.slow(x, weights, chosen), atol=1e-5)


def test_the_shared_expert_has_no_gate() -> None:
    config = presets.tiny()
    moe = MoE(config, 1)
    for parameter in moe.parameters():
        nn.init.normal_(parameter, std=0.1)
    x = torch.randn(6, config.hidden_size)
    routed = moe.experts(x, *moe.gate(x)[:2])
    assert moe.shared_experts is not None
    assert torch.allclose(moe(x), routed + moe.shared_experts(x), atol=1e-6)


def test_the_balance_loss_is_one_at_uniform_routing() -> None:  # r1-facts 8.8, times alpha 1e-4
    experts, top_k = 16, 4
    scores = torch.full((16, experts), 0.5)
    for token in range(16):  # each expert is among the best of exactly top_k tokens, evenly
        for j in range(top_k):
            scores[token, (token * top_k + j) % experts] += 1e-6
    assert 1e-4 * balance_loss(scores, top_k).item() == pytest.approx(1.0e-4, rel=1e-5)


def _slow_balance(scores: Tensor, top_k: int, bounds: list[int]) -> Tensor:
    """V3 eq 17-20, a sequence at a time."""
    losses = []
    for a, b in zip(bounds, bounds[1:]):
        s, total = scores[a:b], torch.zeros(())
        best = [set(row.topk(top_k).indices.tolist()) for row in s]
        for i in range(scores.shape[1]):
            f = scores.shape[1] / (top_k * (b - a)) * sum(i in chosen for chosen in best)
            total = total + f * (s[:, i] / s.sum(-1)).mean()
        losses.append(total)
    return torch.stack(losses).mean()


def test_the_balance_loss_equals_the_equations_written_slowly() -> None:
    scores, bounds = torch.rand(30, 8, requires_grad=True), [0, 4, 5, 19, 30]
    fast, slow = balance_loss(scores, 2, torch.tensor(bounds)), _slow_balance(scores, 2, bounds)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-5)
    assert torch.allclose(torch.autograd.grad(fast, scores)[0], torch.autograd.grad(slow, scores)[0], atol=1e-6)


def test_stats_add_loads_up_and_keep_the_latest_balance_loss() -> None:
    config = presets.tiny()
    model, stats = build(config), RouterStats()
    attend, tokens, positions = PackedAttend([0, 6, 10]), torch.randint(0, 96, (10,)), torch.arange(10)
    h = model(tokens, positions, attend, stats)
    assert set(stats.loads) == {1, 2} and all(int(v.sum()) == 20 for v in stats.loads.values())
    once = stats.balance_loss
    model(tokens, positions, attend, stats)
    assert all(int(v.sum()) == 40 for v in stats.loads.values())
    assert torch.equal(stats.balance_loss, once)
    model.mtp(h, tokens, positions, attend, stats)
    assert set(stats.loads) == {1, 2, 3} and stats.balance_loss > once
    stats.balance_loss.backward()
    assert model.model.layers[1].mlp.gate.weight.grad is not None
    stats.reset()
    assert not stats.loads and stats.balance_loss == 0


def test_stats_compute_no_balance_loss_unless_asked() -> None:
    stats = RouterStats(balance=False)
    attend, tokens, positions = PackedAttend([0, 10]), torch.randint(0, 96, (10,)), torch.arange(10)
    for _ in range(2):
        build(presets.tiny())(tokens, positions, attend, stats)
        assert set(stats.loads) == {1, 2} and not stats.balance_losses and stats.balance_loss == 0
        stats.reset()
        assert not stats.balance and not stats.loads


def test_overloaded_experts_go_down_and_others_up() -> None:  # r1-facts 8.9
    model, stats = build(presets.tiny()), RouterStats()
    stats.loads = {1: torch.tensor([9, 1, 0, 4, 4, 4, 4, 6])}  # mean 4
    update_router_bias(model, stats, 0.001)
    bias = model.model.layers[1].mlp.gate.e_score_correction_bias
    assert torch.allclose(bias, torch.tensor([-0.001, 0.001, 0.001, 0, 0, 0, 0, -0.001]))
    assert not model.model.layers[2].mlp.gate.e_score_correction_bias.any()


def test_the_bias_update_evens_the_load() -> None:
    config = presets.tiny(n_group=1, topk_group=1)
    model, tokens = build(config, seed=3), torch.randint(0, 96, (256,))
    positions, attend = torch.arange(256), PackedAttend([0, 256])

    def worst() -> float:
        stats = RouterStats()
        with torch.no_grad():
            model(tokens, positions, attend, stats)
        update_router_bias(model, stats, 0.002)
        return max((load.max() / load.float().mean()).item() for load in stats.loads.values())

    first = worst()
    assert [worst() for _ in range(40)][-1] < 0.8 * first
