"""Plans against published figures, hand counts and the real model's saved tensors."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from doran.arch import presets
from doran.arch.count import flops_per_token, parameters
from doran.arch.tensors import mtp_layer, tensors
from doran.base.errors import ConfigError
from doran.plan import Efficiency, Grpo, Hardware, Pretrain, Sft, plan_grpo, plan_pretrain, plan_sft, render
from doran.plan.hardware import CPU
from doran.plan.kernels import Matmul, Speed, attention_flops, core_flops, form_of, layer_kinds, layer_matmuls
from doran.plan.memory import Memory, activation_bytes, activation_values, cache_bytes, training_memory
from doran.plan.table import clock, count, size
from doran.plan.time import Clock

FLAT = Efficiency(matmul=1.0, attention=1.0, bandwidth=1.0, realised=1.0)
UNIT = Hardware(name="unit", memory=2**30, memory_bandwidth=1e30, matmul_flops={"float32": 1e9}, op_seconds=1e-30)
RL = Grpo(steps=10, prompts_per_step=8, group_size=4, prompt_tokens=20, completion_tokens=50, max_new_tokens=128)


def test_planning_never_imports_torch():
    code = "import sys, doran.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- memory ----------------------------------------------------------------------------------------------------


def test_cache_of_deepseek_v3_is_the_published_size():
    assert cache_bytes(presets.deepseek_v3(), 1, 131_072, dtype_bytes=2) == 70_272 * 131_072  # 9.21 GB


def test_weights_gradients_and_adam_take_16_bytes_a_parameter():
    config = presets.tiny()
    stored = parameters(config).total + parameters(config).mtp
    memory = training_memory(config, 1)
    assert memory.weights + memory.gradients + memory.optimizer == 16 * stored
    assert training_memory(config, 1, dtype_bytes=2).weights == 6 * stored
    assert training_memory(config, 1, optimizer="muon").optimizer == 4 * stored
    assert training_memory(config, 1, optimizer="adamw8bit").optimizer == round((2 + 8 / 256) * stored)


def test_the_peak_holds_activations_or_cache_but_not_both():
    one = Memory(weights=100, activations=7, cache=5, runtime=0)
    assert one.peak == replace(one, cache=0).peak < replace(one, cache=9).peak
    assert one.parts() == {"weights": 100, "activations": 7, "cache": 5}


def test_activation_checkpointing_takes_less_memory_and_more_time():
    config = presets.tiny(num_hidden_layers=8)
    one, more = (Pretrain(steps=2, tokens_per_step=4096, length=100, activation_checkpointing=c) for c in (False, True))
    plain, again = plan_pretrain(config, one), plan_pretrain(config, more)
    assert again.memory.activations < 0.5 * plain.memory.activations and again.memory.weights == plain.memory.weights
    assert plain.total.seconds < again.total.seconds < 1.5 * plain.total.seconds
    assert again.total.flops == plain.total.flops


def test_logits_in_pieces_save_memory():
    config = presets.tiny()
    whole, pieces = activation_bytes(config, 1000), activation_bytes(config, 1000, logits_at_once=100)
    assert whole - pieces == 900 * config.vocab_size * 8


@pytest.mark.parametrize("family", ["deepseek_v3", "llama", "qwen2", "qwen3"])
def test_activations_are_within_a_factor_of_two_of_what_autograd_saves(family):
    torch = pytest.importorskip("torch")
    from doran.layers.attention import PackedAttend
    from doran.models import build

    config, tokens = presets.tiny(family), 32
    model, saved = build(config), {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ids = torch.arange(tokens) % config.vocab_size
        keep = model(ids, torch.arange(tokens), PackedAttend(torch.tensor([0, tokens], dtype=torch.int32)))
    assert keep.requires_grad
    main_only = replace(config, num_nextn_predict_layers=0)
    counted = tokens * activation_values(main_only) * 4
    assert counted / 2 <= sum(saved.values()) <= counted * 2


# ---- time ------------------------------------------------------------------------------------------------------


def test_training_takes_three_forward_passes_at_the_mean_context():
    config = presets.tiny("llama")
    work = Clock(config=config, hardware=UNIT, efficiency=FLAT).train(1000, length=9)
    assert work.flops == 3 * 1000 * flops_per_token(config, 5)
    assert work.seconds == pytest.approx(work.flops / 1e9)


def test_mtp_costs_its_own_weights_and_the_head_again():
    config = presets.tiny("deepseek_v3")
    assert config.num_nextn_predict_layers == 1
    clock = Clock(config=config, hardware=UNIT, efficiency=FLAT)
    extra = (clock.train(1, 1, mtp=True).flops - clock.train(1, 1).flops) / 6
    assert 0 < extra <= parameters(config).mtp + config.vocab_size * config.hidden_size


def test_decoding_pays_per_step_for_the_longest_and_per_wave():
    config = presets.tiny("llama")
    hardware = replace(UNIT, matmul_flops={"float32": 1e30}, op_seconds=1.0)  # only the fixed cost of operations counts
    clock = Clock(config=config, hardware=hardware, efficiency=FLAT)
    step = clock.decode_step(8, 35)
    assert clock.decode(8, 10, 50, 1000, max_batch=8).seconds == pytest.approx(100 * step)
    assert clock.decode(8, 10, 50, 60, max_batch=8).seconds == pytest.approx(60 * step)
    assert clock.decode(16, 10, 50, 60, max_batch=8).seconds == pytest.approx(110 * step)


def test_wider_models_reach_more_of_the_peak_but_never_the_ceiling():
    hardware, efficiency = Hardware(), CPU
    shares = []
    for width in (64, 256, 1024, 4096):
        config = presets.tiny("llama", hidden_size=width, intermediate_size=4 * width, num_attention_heads=width // 16)
        work = Clock(config=config, hardware=hardware, efficiency=efficiency).train(4096, 128)
        shares.append(work.flops / work.seconds / hardware.peak("float32"))
    assert shares == sorted(shares) and shares[-1] < 3 * efficiency.matmul / (1 + efficiency.backward)


def test_matrix_products_cost_their_flops_their_bytes_and_a_call():
    speed = Speed(hardware=replace(UNIT, memory_bandwidth=1e9, op_seconds=1.0), efficiency=FLAT, dtype="float32")
    assert speed.matmul(Matmul(20, 30), 10) == pytest.approx(2 * 10 * 20 * 30 / 1e9 + 4 * (10 * 50 + 600) / 1e9 + 1)
    assert Matmul(20, 30, visits=2, copies=8).flops == 2 * 2 * 600 and Matmul(20, 30, copies=8).parameters == 4800


@pytest.mark.parametrize("family", ["deepseek_v3", "llama", "qwen2", "qwen3"])
def test_the_list_of_matrix_products_holds_the_models_own_matrices(family):
    config = presets.tiny(family)
    listed = sum(n * sum(m.parameters for m in layer_matmuls(config, moe)) for moe, n in layer_kinds(config).items())
    real = sum(rows * columns for name, (rows, columns) in matrices(config) if ".layers." in name)
    assert listed == real


def matrices(config):
    return [(n, s) for n, s in tensors(config) if len(s) == 2 and mtp_layer(n, config) is None]


def test_attention_forms_of_v3():
    v3 = presets.deepseek_v3()
    assert core_flops(v3, 1, "expanded") == 2 * 128 * (192 + 128)
    assert core_flops(v3, 1, "absorbed") == 2 * 128 * (576 + 512)
    assert attention_flops(v3, 4989, "absorbed") == pytest.approx(84.8e9, rel=1e-3)  # r1 facts s5.2
    qwen = presets.qwen2_5("72b")
    assert form_of(qwen) == "gqa" and core_flops(qwen, 1, "gqa") == 2 * 64 * 256


def test_one_measurement_corrects_the_prediction():
    config, hardware = presets.tiny(), Hardware()
    before = plan_grpo(config, RL, hardware)
    measured = 2.5 * before.total.seconds
    after = plan_grpo(config, RL, hardware, CPU.calibrated(before.total.seconds, measured))
    assert after.total.seconds == pytest.approx(measured)


# ---- stages ----------------------------------------------------------------------------------------------------


def test_pretrain_and_sft_count_their_tokens():
    config = presets.tiny()
    assert plan_pretrain(config, Pretrain(steps=100, tokens_per_step=512, length=64)).trained_tokens == 51_200
    sft = plan_sft(config, Sft(examples=100, length=50, epochs=3, micro_tokens=1000))
    assert sft.steps == 15 and sft.trained_tokens == 15_000


def test_grpo_counts_rollouts_updates_and_the_reference():
    plan = plan_grpo(presets.tiny(), RL)
    assert plan.trained_tokens == 10 * 32 * 70 == plan.work["reference"].tokens
    assert plan.work["rollout"].tokens == 10 * (8 * 20 + 32 * 50)  # one prefill serves its group
    assert plan.memory.reference > 0 and plan.memory.cache == cache_bytes(presets.tiny(), 32, 148)


def test_without_kl_there_is_no_reference_and_more_updates_cost_more():
    free = plan_grpo(presets.tiny(), replace(RL, reference=False))
    assert free.memory.reference == 0 and "reference" not in free.work
    assert plan_grpo(presets.tiny(), replace(RL, updates=2)).trained_tokens == 2 * free.trained_tokens


def test_micro_batches_and_max_batch_bound_memory():
    whole, small = plan_grpo(presets.tiny(), RL), plan_grpo(presets.tiny(), replace(RL, micro_tokens=100, max_batch=4))
    assert small.memory.activations < whole.memory.activations / 10 and small.memory.cache * 8 == whole.memory.cache


@pytest.mark.parametrize("change", [{"steps": 0}, {"group_size": -1}, {"dtype": "int3"}])
def test_impossible_settings_are_named(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        plan_grpo(presets.tiny(), replace(RL, **change))


# ---- hardware and text -----------------------------------------------------------------------------------------


def test_profiles_round_trip_and_refuse_what_they_do_not_know():
    hardware = Hardware(name="box", cores=8, matmul_flops={"float32": 1e12})
    assert Hardware.from_profile(hardware.to_profile()) == hardware
    assert hardware.peak("bfloat16") == 1e12  # not measured: the slowest known
    with pytest.raises(ConfigError, match="memory"):
        Hardware.from_profile({"memori": 1})
    for wrong in ({"memory": 0}, {"cores": True}, {"matmul_flops": {"float32": -1}}):
        with pytest.raises(ConfigError, match="above zero"):
            Hardware.from_profile(wrong)


def test_the_table_has_a_row_per_stage_the_parts_and_a_verdict():
    config = presets.tiny()
    plans = [
        plan_pretrain(config, Pretrain(steps=10, tokens_per_step=64, length=32)),
        plan_grpo(config, RL, name="zero"),
    ]
    text = render(plans, Hardware())
    rows = [line.split()[0] for line in text.splitlines() if line]
    assert "pretrain" in rows and "zero" in rows and "together" in rows
    assert "weights" in text and "rollout" in text and "fits: " in text
    assert "does not fit: " in render(plans, Hardware(memory=1000)) and "micro_tokens" in render(
        plans, Hardware(memory=1)
    )
    assert render([], Hardware()) == "nothing to run"


def test_the_table_is_aligned():
    plan = plan_pretrain(presets.deepseek_v3(), Pretrain(steps=240_000, tokens_per_step=62_900_000, length=4096))
    head, rule, *rows = render([plan], Hardware()).splitlines()[2:5]
    assert len(head) == len(rule) == len(rows[0]) and "671B" in rows[0]


def test_units():
    assert [count(v) for v in (950, 12_345, 2_300_000, 671_026_419_200, 9.2e18)] == [
        "950",
        "12.3k",
        "2.3M",
        "671B",
        "9.2e+18",
    ]
    assert [size(v) for v in (5 * 2**20, 3 * 2**30)] == ["5 MiB", "3.0 GiB"]
    assert [clock(v) for v in (4.21, 200, 7500, 1e7)] == ["4.2 s", "3 min 20 s", "2 h 05 min", "116 days"]
