"""The native decoder against the runner that executes the model's own code; and that company changes no bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from doran.arch import presets
from doran.arch.rope_scaling import RopeScaling
from doran.base.errors import OutOfMemory
from doran.engine import Engine, SamplingParams
from doran.engine import engine as engine_module
from doran.engine import native_runner as module
from doran.engine.native_runner import NativeRunner, native_runner
from doran.engine.runner import Runner, make_runner
from doran.engine.sampler import RowParams, sample
from doran.models.decoder import Decoder
from doran.models.families import build
from doran.native.build import library

FAMILIES = ("deepseek_v3", "llama", "qwen2", "qwen3")
needs_compiler = pytest.mark.skipif(library("decoder") is None, reason="no native decoder on this machine")


def shake(model: Decoder, seed: int = 0) -> Decoder:
    """Nothing left at its neutral start: norms, biases and the router's bias get values that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if p.dim() == 1:
                p.add_(torch.randn(p.shape, generator=generator) * (0.1 if "correction" in name else 0.3))
    return model


def compare(model: Decoder, dtype: torch.dtype, cache_dtype: torch.dtype | None = None) -> tuple[float, float]:
    """Largest difference of logits between the two runners over a prefill and decode steps, and the largest logit."""
    slow = Runner(model, cache_dtype, dtype, 1 << 26)
    fast = native_runner(model, cache_dtype, dtype, 1 << 26, 8)
    assert fast is not None
    generator = torch.Generator().manual_seed(1)
    vocab = model.config.vocab_size
    prompts = [torch.randint(vocab, (n,), generator=generator).tolist() for n in (37, 3, 64)]
    copies, worst, largest = [2, 1, 4], 0.0, 0.0
    lengths = torch.tensor([37, 37, 3, 64, 64, 64, 64])
    with torch.inference_mode():
        slow.resize(7, 0, 100, 100)
        pairs = [(slow.prefill(prompts, copies, 0), fast.prefill(prompts, copies, 0))]
        for step in range(4):
            tokens = torch.randint(vocab, (7,), generator=generator)
            pairs.append((slow.decode(tokens, lengths + step), fast.decode(tokens, lengths + step)))
    for a, b in pairs:
        worst = max(worst, float((a.float() - b).abs().max()))
        largest = max(largest, float(a.abs().max()))
    return worst, largest


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Odd sizes of every family."""
    kind = draw(st.sampled_from(FAMILIES))
    heads = draw(st.sampled_from([1, 2, 3, 4, 6, 11]))
    shape: dict[str, Any] = {
        "model_type": kind, "vocab_size": draw(st.integers(17, 90)), "hidden_size": draw(st.integers(8, 50)),
        "intermediate_size": draw(st.integers(3, 70)), "num_hidden_layers": 2, "num_attention_heads": heads,
        "num_key_value_heads": heads, "initializer_range": 0.15, "tie_word_embeddings": draw(st.booleans()),
        "attention_bias": draw(st.booleans()), "max_position_embeddings": 128,
    }  # fmt: skip
    if kind == "deepseek_v3":
        groups = draw(st.sampled_from([1, 2]))
        return shape | {
            "q_lora_rank": draw(st.sampled_from([None, 7, 16])), "kv_lora_rank": draw(st.sampled_from([5, 16, 20])),
            "qk_nope_head_dim": draw(st.integers(1, 18)), "qk_rope_head_dim": draw(st.sampled_from([2, 6, 8])),
            "v_head_dim": draw(st.integers(1, 20)), "rope_interleave": draw(st.booleans()),
            "n_routed_experts": 6, "num_experts_per_tok": draw(st.integers(1, 3)), "n_group": groups,
            "topk_group": draw(st.integers(1, groups)), "moe_intermediate_size": draw(st.integers(3, 20)),
            "n_shared_experts": draw(st.integers(0, 2)), "first_k_dense_replace": draw(st.integers(0, 2)),
            "norm_topk_prob": draw(st.booleans()), "routed_scaling_factor": 1.5, "num_nextn_predict_layers": 0,
            "masked_group_score": draw(st.sampled_from(["-inf", "zero"])),
        }  # fmt: skip
    divisors = [n for n in (1, 2, 3, 11) if heads % n == 0]
    more = {"num_key_value_heads": draw(st.sampled_from(divisors)), "head_dim": draw(st.sampled_from([2, 6, 16, 18]))}
    return shape | more | ({"mlp_bias": draw(st.booleans())} if kind == "llama" else {})


@needs_compiler
@settings(derandomize=True, deadline=None, max_examples=40)
@given(shapes())
def test_logits_equal_those_of_the_model_s_own_code_in_fp32(shape: dict[str, Any]) -> None:
    worst, largest = compare(shake(build(presets.tiny(**shape), seed=2)), torch.float32)
    assert worst < 2e-5 * max(1.0, largest)


@needs_compiler
@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_as_close_to_fp32_as_the_model_s_own_bf16(family: str) -> None:
    config = presets.tiny(family, initializer_range=0.15, **({"n_group": 1, "topk_group": 1, "num_experts_per_tok": 8}
                                                           if family == "deepseek_v3" else {}))  # fmt: skip
    model = build(config, seed=1)
    exact, own = Runner(model, None, torch.float32, 1 << 26), Runner(model, None, torch.bfloat16, 1 << 26)
    native = native_runner(model, None, torch.bfloat16, 1 << 26, 2)
    prompt, errors = list(range(60)), []
    with torch.inference_mode():
        for runner in (exact, own):
            runner.resize(1, 0, 100, 100)
        logits = []
        for runner in (exact, own, native):
            rows = [runner.prefill([prompt], [1], 0)]
            rows += [runner.decode(torch.tensor([t]), torch.tensor([60 + t])) for t in range(8)]
            logits.append(torch.cat(rows).float())
        errors = [float((x - logits[0]).pow(2).mean().sqrt()) for x in logits[1:]]
    assert errors[1] < 1.1 * errors[0]


@needs_compiler
@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_pair_of_compute_and_cache_dtype_runs(dtype: torch.dtype, cache_dtype: torch.dtype) -> None:
    worst, largest = compare(build(presets.tiny("qwen2", initializer_range=0.1), seed=1), dtype, cache_dtype)
    exact = dtype == cache_dtype == torch.float32
    assert worst < (2e-5 if exact else 0.05) * max(1.0, largest)


@needs_compiler
def test_scaled_rotary_positions_are_the_model_s() -> None:
    scaling = RopeScaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, mscale=1.0)
    worst, largest = compare(build(presets.tiny(rope_scaling=scaling, initializer_range=0.1), seed=1), torch.float32)
    assert worst < 2e-5 * max(1.0, largest)


PROMPTS = [[5 + i, 9, 2 * i, *range(3 * i)] for i in range(12)]


def sampled(engine: Engine, prompts: list[list[int]], n: int = 3, **params: Any) -> list[Any]:
    settings = [SamplingParams(40, seed=p[0], stop_token_ids=(3,), **params) for p in prompts]
    return engine.generate(prompts, settings, n=n)


@needs_compiler
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_those_of_the_model_s_own_code(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(build(presets.tiny(family, initializer_range=0.2), seed=4))
    fast = sampled(engine, PROMPTS, n=1, temperature=0.0)
    monkeypatch.setattr(engine_module, "make_runner", lambda *args: Runner(*args[:4]))
    slow = sampled(engine, PROMPTS, n=1, temperature=0.0)
    assert [c.token_ids for (c,) in fast] == [c.token_ids for (c,) in slow]
    for (a,), (b,) in zip(fast, slow, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3"])
def test_a_completion_is_bit_equal_in_any_company(family: str, dtype: torch.dtype) -> None:
    model = shake(build(presets.tiny(family, initializer_range=0.2), seed=4))
    cuts = {"top_p": 0.95, "temperature": 0.8}
    together = sampled(Engine(model, compute_dtype=dtype), PROMPTS, **cuts)
    waves = sampled(Engine(model, max_batch=5, compute_dtype=dtype), PROMPTS[::-1], **cuts)[::-1]
    alone = [sampled(Engine(model, compute_dtype=dtype), [p], **cuts)[0] for p in PROMPTS[:3]]
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    threads = sampled(Engine(model, compute_dtype=dtype), PROMPTS, **cuts)
    torch.set_num_threads(before)
    assert together == waves
    assert together[:3] == alone
    assert together == threads


@needs_compiler
def test_weights_that_change_between_calls_are_seen() -> None:
    model = build(presets.tiny("qwen2", initializer_range=0.2), seed=4)
    engine = Engine(model)
    first = sampled(engine, PROMPTS[:2])
    assert sampled(engine, PROMPTS[:2]) == first
    seen = module.fingerprint(model)
    model.model.layers[1].mlp.down_proj.weight.data.view(-1)[-1].mul_(1 + 1e-6)  # no version counter hears of this
    assert module.fingerprint(model) != seen
    model.model.norm.weight.data.mul_(0.3)
    assert sampled(engine, PROMPTS[:2]) != first


@needs_compiler
def test_blocks_come_back_and_a_full_cache_is_a_clear_error() -> None:
    model = build(presets.tiny("qwen2"), seed=0)
    runner = native_runner(model, None, None, 1 << 20, 8)
    assert isinstance(runner, NativeRunner)
    total = runner.num_blocks
    with torch.inference_mode():
        for _ in range(3):
            runner.prefill([list(range(70)), [1]], [3, 1], 0)
            # Two whole blocks once for the group, and a copy of the third for each.
            assert runner._call("decoder_free_blocks") == total - (2 + 3 + 1)
            runner.move(3, 0)
            runner.decode(torch.tensor([4, 5]), torch.tensor([1, 70]))
        runner.decode(torch.tensor([4]), torch.tensor([2]))
        assert runner._call("decoder_free_blocks") == total - 1
        with pytest.raises(OutOfMemory, match="no block left"):
            runner.prefill([[1] * 500] * 8, [1] * 8, 0)


@needs_compiler
@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_draws_follow_the_sampler(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, vocab = 12, int(torch.randint(2, 300, (1,), generator=generator))
    logits_NV = torch.randn(n, vocab, generator=generator) * (1 + seed % 5)
    uniform_N = torch.rand(n, generator=generator, dtype=torch.float64)
    pick = lambda *values: torch.tensor(values)[torch.randint(len(values), (n,), generator=generator)]  # noqa: E731
    top_p_N, min_p_N = pick(1.0, 1.0, 0.2, 0.9, 0.99), pick(0.0, 0.0, 0.05, 0.5)
    params = RowParams(pick(0.0, 0.3, 0.7, 1.0, 2.0), pick(0, 0, 1, 5, 80), top_p_N, min_p_N)
    tokens_N, logprobs_N = sample(logits_NV, params, uniform_N)
    ours_N, our_logprobs_N = module.draw(logits_NV, params, uniform_N)
    assert torch.equal(tokens_N, ours_N)
    assert torch.allclose(logprobs_N, our_logprobs_N, atol=1e-5)


def test_without_a_compiler_the_model_s_own_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "library", lambda name: None)
    assert isinstance(make_runner(build(presets.tiny("qwen2")), None, None, 1 << 20, 4), Runner)


@needs_compiler
def test_a_library_for_other_structs_is_not_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "names", lambda: "other fields")
    assert isinstance(make_runner(build(presets.tiny("qwen2")), None, None, 1 << 20, 4), Runner)
    assert "another version" in capsys.readouterr().err


def test_a_layer_that_is_not_plain_is_left_to_the_model_s_own_code() -> None:
    model = build(presets.tiny("qwen2"))
    model.model.layers[0].self_attn.o_proj = torch.nn.Identity()
    assert not module.covers(model, torch.float32)
    assert not module.covers(build(presets.tiny("qwen2")), torch.float16)
