"""Speculation in native steps: the same bits as without, the reference's drafts, and the distribution, by counting."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, product

import pytest
import torch
from engine_kit import CONFIGS

from doran.base.errors import UsageError
from doran.engine import Completion, Engine, SamplingParams
from doran.engine.control import Controls, Token
from doran.engine.request import Drafts, Speculation
from doran.engine.speculate import MTPDraft, speculate
from doran.layers.attention import PackedAttend
from doran.models.decoder import Decoder
from doran.models.families import build
from doran.native.build import library

pytestmark = pytest.mark.skipif(library("decoder") is None, reason="no native decoder on this machine")

PROMPTS = [[5, 9, 2, 5, 9, 7, 5, 9], [1, 2], [7] * 40, [3, 4, 5, 6], [5, 9, 2, 5], list(range(32))]
CASES: list[tuple[str, Drafts]] = [("deepseek_v3", "mtp"), ("deepseek_v3", "ngram"), ("qwen2", "ngram")]


def settings(temperature: float) -> list[SamplingParams]:
    rest = {"temperature": temperature, "top_p": 0.95, "stop_token_ids": (3, 8)}
    return [SamplingParams(max_new_tokens=20 + 9 * i, seed=i, **rest) for i in range(len(PROMPTS))]  # type: ignore[arg-type]


def generated(engine: Engine, temperature: float, n: int = 2) -> list[list[Completion]]:
    return engine.generate(PROMPTS, settings(temperature), n=n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("family", "drafts"), CASES)
def test_no_bit_changes_whatever_is_drafted(
    family: str, drafts: Drafts, temperature: float, dtype: torch.dtype
) -> None:
    model = build(CONFIGS[family], seed=3)
    plain = generated(Engine(model, compute_dtype=dtype), temperature)
    for width, max_batch in ((1, 256), (3, 5), (15, 2)):
        engine = Engine(model, max_batch, compute_dtype=dtype, speculation=Speculation(drafts, width, 0.0))
        assert generated(engine, temperature) == plain
        stats = engine.stats
        assert 0 <= stats.accepted_tokens <= stats.draft_tokens and stats.draft_tokens > 0
        new = sum(len(c.token_ids) for completions in plain for c in completions)
        assert stats.decode_tokens == new - 2 * len(PROMPTS)  # the first of each comes from the prefill


@pytest.mark.parametrize("drafts", ["mtp", "ngram"])
def test_threads_share_the_work_and_change_no_bit(drafts: Drafts) -> None:
    model, before = build(CONFIGS["deepseek_v3"], seed=3), torch.get_num_threads()
    params = SamplingParams(max_new_tokens=12, seed=1)
    plain = Engine(model).generate(PROMPTS[:1], params, n=3)
    try:
        torch.set_num_threads(2)
        for n in (1, 3):
            engine = Engine(model, speculation=Speculation(drafts, 2, 0.0))
            assert engine.generate(PROMPTS[:1], params, n=n)[0] == plain[0][:n]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_mtp_drafts_are_the_reference_s(width: int) -> None:
    model = build(CONFIGS["deepseek_v3"], seed=3)
    for seed, prompt in enumerate(PROMPTS):
        params = SamplingParams(max_new_tokens=40, temperature=0, seed=seed)
        slow = speculate(Engine(model), prompt, params, MTPDraft(), width)
        engine = Engine(model, speculation=Speculation("mtp", width, 0.0))
        assert engine.generate([prompt], params)[0][0].token_ids == slow.completion.token_ids
        stats = engine.stats
        assert (stats.decode_steps + 1, stats.draft_tokens, stats.accepted_tokens) == (
            slow.forwards,
            slow.drafted,
            slow.accepted,
        )


def test_a_text_that_repeats_itself_comes_in_fewer_steps() -> None:
    model = build(CONFIGS["qwen2"], seed=3)
    params = SamplingParams(max_new_tokens=60, temperature=0)
    plain = Engine(model)
    answer = plain.generate([PROMPTS[0]], params)
    engine = Engine(model, speculation=Speculation("ngram", 4))
    assert engine.generate([PROMPTS[0]], params) == answer
    assert engine.stats.decode_steps < plain.stats.decode_steps
    assert list(engine.stream(PROMPTS[0], params)) == list(
        zip(answer[0][0].token_ids, answer[0][0].logprobs, strict=True)
    )


@pytest.mark.parametrize(("family", "drafts"), CASES)
def test_a_live_session_speculates_and_takes_back_what_is_refused(family: str, drafts: Drafts) -> None:
    model = build(CONFIGS[family], seed=3)
    plain = generated(Engine(model), 0.8)
    live = Engine(model, speculation=Speculation(drafts, 3, 0.0)).open(interval=0.05)
    said: dict[tuple[int, int], list[int]] = {}

    def controls(i: int, j: int) -> Controls:
        heard = said[i, j] = []
        turn = count()

        def watch(token: Token) -> bool:
            heard.append(token.id)
            return False

        def read(tokens: Sequence[int], logprobs: Sequence[float]) -> tuple[int, bool]:
            kept = len(tokens) if next(turn) % 2 else len(tokens) // 2  # every other time it wants to hear one by one
            heard.extend(tokens[:kept])
            return kept, False

        return Controls(watch=watch, read=read)

    for i, (prompt, p) in enumerate(zip(PROMPTS, settings(0.8), strict=True)):
        live.submit(prompt, p, [controls(i, j) for j in range(2)])
    while live.busy:
        live.step()
    assert said == {(i, j): c.token_ids for i, pair in enumerate(plain) for j, c in enumerate(pair)}


def test_unlikely_drafts_are_left_out() -> None:
    model = build(CONFIGS["deepseek_v3"], seed=3)
    drafted = []
    for least in (0.0, 0.2, 1.0):
        engine = Engine(model, speculation=Speculation("mtp", 4, least))
        generated(engine, 0.8)
        drafted.append(engine.stats.draft_tokens)
    assert drafted[0] > drafted[1] > drafted[2]


def test_weights_of_the_mtp_module_are_seen_anew() -> None:
    model = build(CONFIGS["deepseek_v3"], seed=3)
    engine = Engine(model, speculation=Speculation("mtp", 2, 0.0))
    plain = generated(engine, 0.8)
    first = engine.stats.accepted_tokens
    engine.stats.reset()
    model.model.layers[-1].eh_proj.weight.data.neg_()  # type: ignore[union-attr, operator]
    assert generated(engine, 0.8) == plain
    assert engine.stats.accepted_tokens != first


@torch.no_grad()
@pytest.mark.parametrize("drafts", ["mtp", "ngram"])
def test_sampled_pairs_have_the_models_distribution(drafts: Drafts) -> None:
    model = build(replace(CONFIGS["deepseek_v3"], vocab_size=4, initializer_range=0.4), seed=8)
    prompt, rounds = [0, 0, 1, 0, 2, 0, 3, 1, 1, 2, 1, 3, 2, 2, 3, 3, 0], 4000  # every pair was there
    engine = Engine(model, speculation=Speculation(drafts, 2, 0.0))
    params = [SamplingParams(max_new_tokens=3, seed=seed) for seed in range(rounds)]
    said = [c[0].token_ids[1:] for c in engine.generate([prompt] * rounds, params)]
    first_V = chances(model, prompt)
    exact: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for a, b, c in product(range(4), repeat=3):
        p = first_V[a] * chances(model, [*prompt, a])[b] * chances(model, [*prompt, a, b])[c]
        exact[b, c] += float(p)
    counts = Counter(map(tuple, said))
    assert rounds / 50 < engine.stats.accepted_tokens < engine.stats.draft_tokens  # both ways of the rule were taken
    chi2 = sum((counts[pair] - rounds * p) ** 2 / (rounds * p) for pair, p in exact.items())
    assert chi2 < 37.7  # 15 degrees of freedom: one in a thousand is above


def chances(model: Decoder, ids: list[int]) -> torch.Tensor:
    """The next token's probabilities by the training forward."""
    h_TD = model(torch.tensor(ids), torch.arange(len(ids)), PackedAttend([0, len(ids)]))
    return model.logits(h_TD[-1:]).double().softmax(-1)[0]


def test_wrong_use_is_told() -> None:
    with pytest.raises(UsageError, match="no MTP module"):
        Engine(build(CONFIGS["qwen2"]), speculation=Speculation("mtp"))
    with pytest.raises(UsageError, match="unknown drafts 'oracle'"):
        Speculation("oracle")  # type: ignore[arg-type]
    for width in (0, 16):
        with pytest.raises(UsageError, match=f"draft_tokens is {width}"):
            Speculation("ngram", width)
