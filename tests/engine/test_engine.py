"""The engine against a loop without cache, batch or scheduler; and what must not matter: company, waves, groups.

About exactness: float32 matrix products of different batch shapes may differ in the last bits. A draw that falls
within that distance (about 1e-6) of a CDF edge could then come out differently, and everything after it. "Same tokens"
below is therefore a statement about these fixed seeds, where no draw comes that close, not a law; logprobs: to 1e-4.
"""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from engine_kit import CONFIGS

from doran.base.errors import NumericsError, OutOfMemory, UsageError
from doran.base.rng import numpy_rng
from doran.engine import Completion, Engine, SamplingParams
from doran.engine import engine as engine_module
from doran.engine.runner import cast_copy
from doran.layers.attention import PackedAttend
from doran.models.decoder import Decoder
from doran.models.families import build


@pytest.fixture(params=sorted(CONFIGS))
def model(request: pytest.FixtureRequest) -> Decoder:
    return build(CONFIGS[request.param], seed=3)


def prompts(count: int, shortest: int = 1, longest: int = 20) -> list[list[int]]:
    """Different prompts of different lengths."""
    generator = torch.Generator().manual_seed(11)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(61, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def packed_logits(model: Decoder, ids: list[int]) -> torch.Tensor:
    """Next-token logits after each position, by the training forward."""
    tokens = torch.tensor(ids)
    return model.logits(model(tokens, torch.arange(len(ids)), PackedAttend([0, len(ids)])))


def naive(model: Decoder, prompt: list[int], params: SamplingParams, completion: int = 0) -> Completion:
    """One whole forward for each new token; one uniform for each; no cuts."""
    ids, logprobs = list(prompt), []
    uniforms = numpy_rng("sample", params.seed, completion).random(params.max_new_tokens)
    for uniform in uniforms:
        scaled = packed_logits(model, ids)[-1] / (params.temperature or 1.0)
        probs = torch.softmax(scaled.double(), -1)
        token = int(scaled.argmax()) if params.temperature == 0 else int((probs.cumsum(0) <= uniform).sum())
        ids.append(token)
        logprobs.append(float(probs[token].log()))
        if token in params.stop_token_ids:
            return Completion(ids[len(prompt) :], logprobs, "stop")
    return Completion(ids[len(prompt) :], logprobs, "length")


def assert_same(got: Completion, expected: Completion) -> None:
    assert got.token_ids == expected.token_ids
    assert got.finish_reason == expected.finish_reason
    assert got.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_tokens_equal_those_of_a_loop_without_a_cache(model: Decoder, temperature: float) -> None:
    params = SamplingParams(14, temperature=temperature, seed=5)
    given = prompts(5)
    got = Engine(model).generate(given, params)
    for prompt, (completion,) in zip(given, got, strict=True):
        assert_same(completion, naive(model, prompt, params))


def test_completion_j_has_its_own_random_numbers(model: Decoder) -> None:
    params, (prompt,) = SamplingParams(10, seed=9), prompts(1, shortest=5)
    group = Engine(model).generate([prompt], params, n=4)[0]
    for j, completion in enumerate(group):
        assert_same(completion, naive(model, prompt, params, completion=j))
    assert len({tuple(c.token_ids) for c in group}) > 1


@pytest.mark.parametrize("max_batch", [1, 2, 5, 7, 64])
def test_a_request_says_the_same_alone_and_in_any_company(model: Decoder, max_batch: int) -> None:
    given = prompts(7)
    each = [SamplingParams(5 + 3 * i, temperature=0.5 + 0.2 * i, seed=i, top_p=0.9) for i in range(7)]
    together = Engine(model, max_batch=max_batch).generate(given, each, n=2)
    for prompt, params, completions in zip(given, each, together, strict=True):
        for got, expected in zip(completions, Engine(model).generate([prompt], params, n=2)[0], strict=True):
            assert_same(got, expected)


def test_greedy_and_sampled_rows_share_a_batch(model: Decoder) -> None:
    given = prompts(2)
    each = [SamplingParams(8, temperature=0), SamplingParams(8, temperature=1.3, seed=2)]
    for prompt, params, (got,) in zip(given, each, Engine(model).generate(given, each), strict=True):
        assert_same(got, naive(model, prompt, params))


def test_logprobs_are_those_the_trainer_computes(model: Decoder) -> None:
    given, params = prompts(6), SamplingParams(20, temperature=0.7, seed=4, top_k=10, top_p=0.9)
    for prompt, (c,) in zip(given, Engine(model).generate(given, params), strict=True):
        logits = packed_logits(model, prompt + c.token_ids)[len(prompt) - 1 : -1]
        scored = torch.log_softmax(logits / 0.7, -1).gather(1, torch.tensor(c.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(c.logprobs), scored, atol=1e-4, rtol=0)


def test_a_group_prefills_once_and_says_what_separate_prefills_say(model: Decoder) -> None:
    (prompt,), params = prompts(1, shortest=17), SamplingParams(9, seed=6)
    engine = Engine(model)
    group = engine.generate([prompt], params, n=5)[0]
    assert engine.stats.prefill_tokens == len(prompt)
    for j, completion in enumerate(group):
        assert_same(completion, naive(model, prompt, params, completion=j))


def test_prompts_longer_than_a_pack_are_prefilled_in_several(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    given, params = prompts(6), SamplingParams(4, seed=1)
    expected = Engine(model).generate(given, params)
    monkeypatch.setattr("doran.engine.runner.PREFILL_TOKENS", 10)
    for got, want in zip(Engine(model).generate(given, params), expected, strict=True):
        assert_same(got[0], want[0])


def test_the_cache_grows_as_sequences_do(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    given, params = prompts(4), SamplingParams(70, seed=1)
    monkeypatch.setattr("doran.engine.runner.HEADROOM", 1)
    monkeypatch.setattr("doran.engine.runner.ROUND", 4)
    for prompt, (got,) in zip(given, Engine(model).generate(given, params), strict=True):
        assert_same(got, naive(model, prompt, params))


def test_admission_waits_for_cache_memory_and_nothing_changes(model: Decoder) -> None:
    given, params = prompts(8), SamplingParams(12, seed=2)
    tight = Engine(model, cache_bytes=64 * 1024)
    got, expected = tight.generate(given, params, n=3), Engine(model).generate(given, params, n=3)
    assert tight.stats.decode_steps >= 3 * 11  # three waves or more
    for a, b in zip(got, expected, strict=True):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)


def test_a_request_that_exceeds_the_cache_memory_is_out_of_memory(model: Decoder) -> None:
    with pytest.raises(OutOfMemory, match="cache_bytes"):
        Engine(model, cache_bytes=100).generate([[1, 2]], SamplingParams(4))


def test_generation_ends_with_the_stop_token(model: Decoder) -> None:
    (prompt,), params = prompts(1), SamplingParams(20, seed=8)
    free = Engine(model).generate([prompt], params)[0][0]
    stop = free.token_ids[6]
    first = free.token_ids.index(stop)
    stopped = Engine(model).generate([prompt], replace(params, stop_token_ids=(60, stop)))[0][0]
    assert stopped.token_ids == free.token_ids[: first + 1]
    assert stopped.finish_reason == "stop" and free.finish_reason == "length"
    assert len(stopped.logprobs) == len(stopped.token_ids)


def test_a_stop_token_at_the_very_end_still_counts_as_stop(model: Decoder) -> None:
    (prompt,), params = prompts(1), SamplingParams(1, temperature=0)
    token = Engine(model).generate([prompt], params)[0][0].token_ids[0]
    assert Engine(model).generate([prompt], replace(params, stop_token_ids=(token,)))[0][0].finish_reason == "stop"


def test_one_new_token_needs_no_decode_step(model: Decoder) -> None:
    engine = Engine(model)
    (completion,) = engine.generate([[3, 4, 5]], SamplingParams(1))[0]
    assert len(completion.token_ids) == 1 and completion.finish_reason == "length" and engine.stats.decode_steps == 0


def test_generation_ends_at_the_last_position_the_model_has(model: Decoder) -> None:
    (completion,) = Engine(model).generate([[1] * 90], SamplingParams(50))[0]
    assert len(completion.token_ids) == 7 and completion.finish_reason == "length"  # positions 90..95, and one unfed


@pytest.mark.parametrize(
    ("given", "named"),
    [([[]], "prompt 0 is empty"), ([[1], [1] * 97], "prompt 1 has 97 tokens"), ([[61]], "vocabulary"),
     ([[-1]], "prompt 0"), ([["a"]], "prompt 0"), (["text"], "prompt 0")],
)  # fmt: skip
def test_a_wrong_prompt_is_a_usage_error_that_names_it(model: Decoder, given: list[list[int]], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Engine(model).generate(given, SamplingParams(4))


def test_wrong_counts_are_usage_errors(model: Decoder) -> None:
    with pytest.raises(UsageError, match="2 prompts but 1 params"):
        Engine(model).generate([[1], [2]], [SamplingParams(4)])
    with pytest.raises(UsageError, match="n is 0"):
        Engine(model).generate([[1]], SamplingParams(4), n=0)
    with pytest.raises(UsageError, match="max_batch"):
        Engine(model, max_batch=0)


def test_no_prompts_give_no_completions(model: Decoder) -> None:
    assert Engine(model).generate([], SamplingParams(4)) == []


def test_on_finish_hears_of_each_completion_while_others_still_run(model: Decoder) -> None:
    given, heard = prompts(3), []
    engine = Engine(model)

    def note(index: int, completion: Completion) -> None:
        heard.append((index, completion, engine.stats.decode_steps))

    result = engine.generate(given, [SamplingParams(12), SamplingParams(3), SamplingParams(7)], n=2, on_finish=note)
    assert sorted(index for index, _, _ in heard) == list(range(6))
    assert all(result[index // 2][index % 2] is completion for index, completion, _ in heard)
    assert [steps for _, _, steps in heard] == [2, 2, 6, 6, 11, 11]


def test_stats_count_what_was_computed(model: Decoder) -> None:
    engine = Engine(model)
    engine.generate([[1, 2, 3], [4, 5]], SamplingParams(6), n=2)
    assert (engine.stats.prefill_tokens, engine.stats.decode_tokens, engine.stats.decode_steps) == (5, 4 * 5, 5)
    assert engine.stats.prefill_seconds > 0 and engine.stats.decode_seconds > 0
    engine.stats.reset()
    assert engine.stats.decode_tokens == 0


def test_stream_yields_what_generate_returns(model: Decoder) -> None:
    (prompt,), params = prompts(1), SamplingParams(15, seed=3)
    expected = Engine(model).generate([prompt], params)[0][0]
    streamed = list(Engine(model).stream(prompt, params))
    assert [t for t, _ in streamed] == expected.token_ids and [p for _, p in streamed] == expected.logprobs


def test_stream_refuses_wrong_input_before_the_first_token(model: Decoder) -> None:
    with pytest.raises(UsageError, match="empty"):
        Engine(model).stream([], SamplingParams(4))


def live_calls() -> int:
    gc.collect()
    return sum(isinstance(o, engine_module._Call) for o in gc.get_objects())


def test_a_closed_stream_leaves_nothing_behind(model: Decoder) -> None:
    engine = Engine(model)
    stream = engine.stream([1, 2], SamplingParams(30))
    next(stream)
    assert live_calls() == 1
    stream.close()
    assert live_calls() == 0
    assert_same(engine.generate([[1, 2]], SamplingParams(5))[0][0], naive(model, [1, 2], SamplingParams(5)))


def test_an_exception_in_a_callback_leaves_nothing_behind(model: Decoder) -> None:
    engine = Engine(model, max_batch=2)

    def fail(index: int, completion: Completion) -> None:
        raise RuntimeError("scorer")

    with pytest.raises(RuntimeError, match="scorer"):
        engine.generate(prompts(5), SamplingParams(4), on_finish=fail)
    assert live_calls() == 0
    assert_same(engine.generate([[1, 2]], SamplingParams(5))[0][0], naive(model, [1, 2], SamplingParams(5)))


def test_two_streams_may_be_open_at_once(model: Decoder) -> None:
    engine, params = Engine(model), SamplingParams(8, seed=1)
    interleaved = list(zip(engine.stream([1, 2], params), engine.stream([9, 8, 7], params), strict=True))
    for prompt, side in (([1, 2], 0), ([9, 8, 7], 1)):
        assert [pair[side][0] for pair in interleaved] == naive(model, prompt, params).token_ids


def test_weights_are_shared_and_a_training_step_is_seen(model: Decoder) -> None:
    engine, params = Engine(model), SamplingParams(10, temperature=0)
    before = engine.generate([[1, 2, 3]], params)[0][0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    after = engine.generate([[1, 2, 3]], params)[0][0]
    assert_same(after, naive(model, [1, 2, 3], params))
    assert after != before and all(p.requires_grad for p in model.parameters())


def test_the_model_can_be_trained_after_sampling(model: Decoder) -> None:
    Engine(model).generate([[1, 2, 3]], SamplingParams(4))
    hidden = model(torch.tensor([1, 2, 3]), torch.arange(3), PackedAttend([0, 3]))
    model.logits(hidden).sum().backward()
    assert model.model.embed_tokens.weight.grad is not None


def test_another_compute_dtype_works_on_a_copy_and_stays_close(model: Decoder) -> None:
    engine = Engine(model, compute_dtype=torch.bfloat16)
    (completion,) = engine.generate([[1, 2, 3]], SamplingParams(6, temperature=0.5))[0]
    logits = packed_logits(model, [1, 2, 3, *completion.token_ids])[2:-1] / 0.5
    scored = torch.log_softmax(logits, -1).gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(completion.logprobs), scored, atol=0.5, rtol=0)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_low_precision_copy_keeps_and_shares_the_norms_and_the_router_in_float32(model: Decoder) -> None:
    mine = dict(model.named_parameters())
    for name, weight in cast_copy(model, torch.bfloat16).named_parameters():
        kept = "norm" in name or name.endswith("mlp.gate.weight")
        assert weight.dtype == (torch.float32 if kept else torch.bfloat16), name
        assert (weight.data_ptr() == mine[name].data_ptr()) == kept, name


def test_nan_logits_are_a_numerics_error(model: Decoder) -> None:
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NumericsError, match="NaN"):
        Engine(model).generate([[1, 2]], SamplingParams(3))


def test_garbage_in_unused_cache_rows_does_not_leak(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty

    def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        tensor = real(*args, **kwargs)  # type: ignore[call-overload]
        return tensor.fill_(float("nan")) if tensor.is_floating_point() and tensor.device.type == "cpu" else tensor

    expected = Engine(model).generate(prompts(4), SamplingParams(8))
    monkeypatch.setattr("doran.layers.cache.torch.empty", poisoned)
    for got, want in zip(Engine(model).generate(prompts(4), SamplingParams(8)), expected, strict=True):
        assert_same(got[0], want[0])
