"""Jobs, layouts and the search: what must grow with what, and what is refused."""

from __future__ import annotations

import pytest

from doran.arch import presets
from doran.arch.count import flops_per_token
from doran.base.errors import ConfigError
from doran.plan.cluster import train_step
from doran.plan.jobs import Rl, Setup, distill, grpo, train
from doran.plan.kernels import forward_flops
from doran.plan.layout import Layout, parse_layout, shard, training_bytes
from doran.plan.models import find_model
from doran.plan.prices import load_prices
from doran.plan.profiles import find_hardware
from doran.plan.search import best_layout, cheapest
from doran.plan.serving import Serving

H100, H800 = find_hardware("h100"), find_hardware("h800")
PRICES = load_prices(find_hardware.__globals__["FOLDER"] / "prices.yaml")


@pytest.mark.parametrize("name", ["deepseek-v3", "qwen2.5-0.5b", "llama3.1-405b"])
def test_quick_flops_are_those_counted_tensor_by_tensor(name):
    config = find_model(name)
    assert forward_flops(config, 2048) == pytest.approx(flops_per_token(config, 2048), rel=1e-4)


def test_zero_and_experts_share_out_what_a_device_holds():
    config = presets.qwen2_5("7b")
    whole = training_bytes(config, Layout(dp=8, zero=0), 512)
    assert training_bytes(config, Layout(dp=8, zero=1), 512).optimizer == pytest.approx(whole.optimizer / 8, rel=1e-6)
    assert training_bytes(config, Layout(dp=8, zero=3), 512).weights == pytest.approx(whole.weights / 8, rel=1e-6)
    v3 = presets.deepseek_v3()
    assert shard(v3, Layout(dp=64, ep=64)).experts == pytest.approx(shard(v3, Layout()).experts / 64)


def test_recomputation_trades_memory_for_time():
    config = presets.qwen2_5("7b")
    plain, again = Layout(), Layout(recompute="full")
    assert training_bytes(config, again, 4096).activations < training_bytes(config, plain, 4096).activations / 3
    steps = [train_step(config, H100, layout, sequences=8, length=4096).seconds for layout in (plain, again)]
    assert steps[0] < steps[1]


def test_the_layout_found_fits_and_is_no_slower_than_one_by_hand():
    config = presets.qwen2_5("7b")
    found = best_layout(config, H100, 8, sequences=256, length=4096)
    assert found is not None and found.memory.peak <= H100.memory and found.layout.devices == 8
    by_hand = train_step(config, H100, Layout(dp=8, zero=3, recompute="full"), sequences=256, length=4096)
    assert found.step.seconds <= by_hand.seconds
    with pytest.raises(ConfigError, match="fits on no layout"):
        cheapest(config, H100, sequences=4, length=4096, devices=1)


def test_a_job_costs_its_device_hours_and_more_tokens_cost_more():
    setup = Setup(hardware=H100, prices=PRICES, devices=4)
    one, two = (train("pretrain", presets.qwen2_5("1.5b"), setup, tokens, 2048) for tokens in (1e9, 2e9))
    assert one.usd == pytest.approx(one.device_hours * 2.0) and two.usd == pytest.approx(2 * one.usd, rel=0.01)
    assert 0.1 < one.mfu() < 0.76 and one.kwh == pytest.approx(one.device_hours * 0.7 * 1.3)
    with pytest.raises(ConfigError, match="tokens"):
        train("sft", presets.qwen2_5("1.5b"), setup, -1, 2048)


def test_grpo_and_distillation_keep_their_phases_apart():
    setup = Setup(hardware=H100, prices=PRICES, devices=8)
    rl = Rl(steps=10, samples_per_step=512, prompt_tokens=100, completion_tokens=1000, longest=4000)
    job = grpo(presets.qwen2_5("7b"), setup, rl)
    assert set(job.phases) == {"sampling", "scoring", "update"} and sum(job.phase_usd().values()) == pytest.approx(
        job.usd
    )
    longer = grpo(presets.qwen2_5("7b"), setup, Rl(**{**vars(rl), "longest": 16000}))
    assert longer.phases["sampling"] > 2 * job.phases["sampling"] and longer.phases["update"] == job.phases["update"]
    taught = distill(presets.qwen2_5("7b"), presets.qwen2_5("0.5b"), setup, 1000, 2000, 2)
    assert set(taught.phases) == {"sampling", "training"}


def test_more_users_get_less_each_and_drafts_help_a_single_one():
    server = Serving(config=presets.deepseek_v3(), hardware=H800, devices=32, precision="fp8")
    drafting = Serving(config=presets.deepseek_v3(), hardware=H800, devices=32, precision="fp8", drafts=True)
    assert server.users(4096, 30) < server.users(4096, 15)
    assert server.decode(64, 4096) > server.decode(8, 4096)
    assert drafting.decode(1, 4096) > 1.3 * server.decode(1, 4096)
    with pytest.raises(ConfigError, match="no MTP"):
        Serving(config=presets.qwen2_5("7b"), hardware=H800, drafts=True)


@pytest.mark.parametrize(
    "text", ["dp", "dp=x", "dq=3", "dp=0", "zero=4", "ep=3,dp=4", "schedule=best", "recompute=all"]
)
def test_layouts_that_are_none_are_refused(text):
    with pytest.raises(ConfigError):
        parse_layout(text)
    assert parse_layout("dp=4, tp=2 pp=2,schedule=dualpipe").devices == 16
