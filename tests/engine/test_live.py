"""A live session says what `generate` says, whoever comes and goes; a request's failure is its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from doran.arch.config import ModelConfig
from doran.base.errors import NumericsError, OutOfMemory, UsageError
from doran.engine import Bias, Controls, Engine, Live, Penalties, SamplingParams, Token
from doran.models.decoder import Decoder
from doran.models.families import build

CONFIG = ModelConfig(
    model_type="qwen2", vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=400, initializer_range=0.25,
    tie_word_embeddings=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Decoder:
    return build(CONFIG, seed=3)


class Heard:
    """A request's watcher."""

    def __init__(self, **extra: object) -> None:
        self.tokens: list[Token] = []
        self.ends: list[tuple[str, Exception | None]] = []
        self.controls = Controls(
            watch=self.tokens.append, on_end=lambda reason, error: self.ends.append((reason, error)), **extra
        )  # type: ignore[arg-type]

    @property
    def ids(self) -> list[int]:
        return [t.id for t in self.tokens]


def drain(live: Live) -> None:
    while live.busy:
        live.step()
    assert live.free_slots == 4


@pytest.fixture
def live(model: Decoder) -> Live:
    return Engine(model, max_batch=4).open()


def alone(model: Decoder, prompt: list[int], params: SamplingParams, n: int = 1) -> list[list[int]]:
    return [c.token_ids for c in Engine(model).generate([prompt], params, n=n)[0]]


def test_late_comers_and_leavers_change_nothing_for_the_others(model: Decoder, live: Live) -> None:
    params = [SamplingParams(30, seed=i, temperature=0.8, top_p=0.95, stop_token_ids=(5,)) for i in range(7)]
    heard = [Heard() for _ in params]
    numbers = []
    for i, (p, h) in enumerate(zip(params, heard, strict=True)):
        numbers += live.submit([1 + i, 2, 3], p, [h.controls])
        live.step()
        live.step()
        if i == 3:
            assert live.abort(numbers[1])
    assert live.num_waiting > 0 and live.free_slots == 0
    assert live.abort(numbers[6]) and not live.abort(numbers[6])
    drain(live)
    for i in (0, 2, 3, 4, 5):
        assert heard[i].ids == alone(model, [1 + i, 2, 3], params[i])[0]
        assert heard[i].ends[0][0] == ("stop" if heard[i].ids[-1] == 5 else "length")
    assert heard[1].ends == heard[6].ends == [("abort", None)]


def test_a_group_shares_its_prefill_and_draws_as_generate_does(model: Decoder) -> None:
    engine, params, heard = Engine(model, max_batch=4), SamplingParams(12, seed=4), [Heard() for _ in range(3)]
    live = engine.open()
    live.submit([7, 8, 9], params, [h.controls for h in heard])
    drain(live)
    assert engine.stats.prefill_tokens == 3
    assert [h.ids for h in heard] == alone(model, [7, 8, 9], params, n=3)


def test_long_completions_draw_on_the_one_stream(model: Decoder, live: Live) -> None:
    heard, params = Heard(), SamplingParams(300, seed=2)
    live.submit([3, 4], params, [heard.controls])
    drain(live)
    assert heard.ids == alone(model, [3, 4], params)[0]


def test_a_failing_processor_or_watcher_ends_its_request_alone(model: Decoder, live: Live) -> None:
    def raising(tokens: object, logits_V: object) -> None:
        raise RuntimeError("mine")

    good, bad, watched, masked = Heard(), Heard(processors=(raising,)), [], []
    live.submit([1, 2], SamplingParams(10), [good.controls])
    live.submit([1, 3], SamplingParams(10), [bad.controls])
    live.submit([1, 4], SamplingParams(10), [Controls(watch=lambda t: 1 // 0, on_end=lambda *e: watched.append(e))])
    everything = Controls((lambda t, logits_V: logits_V.fill_(float("-inf")),), on_end=lambda *e: masked.append(e))
    live.submit([1, 5], SamplingParams(10), [everything])
    drain(live)
    assert good.ids == alone(model, [1, 2], SamplingParams(10))[0]
    assert bad.ends[0][0] == "error" and isinstance(bad.ends[0][1], RuntimeError) and bad.ids == []
    assert isinstance(watched[0][1], ZeroDivisionError)
    assert isinstance(masked[0][1], NumericsError)


def test_a_watcher_can_stop(live: Live) -> None:
    tokens: list[Token] = []
    ends: list[str] = []
    watch = lambda t: tokens.append(t) or len(tokens) == 3  # noqa: E731
    live.submit([1, 2], SamplingParams(10), [Controls(watch=watch, on_end=lambda r, e: ends.append(r))])
    drain(live)
    assert len(tokens) == 3 and ends == ["stop"]


def test_wrong_requests_are_refused_before_they_wait(model: Decoder, live: Live) -> None:
    for prompt in ([], [61], [1] * 401):
        with pytest.raises(UsageError):
            live.submit(prompt, SamplingParams(4))
    assert not live.busy
    with pytest.raises(OutOfMemory):
        Engine(model, cache_bytes=100).open().submit([1], SamplingParams(4))


def test_top_logprobs_are_the_models_own(model: Decoder, live: Live) -> None:
    heard = Heard(top_logprobs=2, processors=(Bias({9: 100.0}, 61),))
    live.submit([1, 2], SamplingParams(3), [heard.controls])
    drain(live)
    assert heard.ids == [9, 9, 9]
    top = heard.tokens[0].top
    assert top[0][0] == 9 and top[0][1] < -0.01 < heard.tokens[0].logprob
    assert len(top) == 3 and top[1][1] >= top[2][1]


def test_penalties_follow_their_formulas() -> None:
    logits = torch.tensor([2.0, -2.0, 1.0, 0.5])
    got = Penalties([1], presence=0.5, frequency=0.25, repetition=2.0)([0, 0], logits.clone())
    torch.testing.assert_close(got, torch.tensor([1.0 - 0.5 - 0.5, -4.0, 1.0, 0.5]))
    with pytest.raises(UsageError):
        Penalties([], repetition=0)
    with pytest.raises(UsageError):
        Bias({61: 1.0}, 61)


def test_a_veto_that_refuses_nothing_changes_nothing_and_one_that_does_is_obeyed(model: Decoder, live: Live) -> None:
    params = SamplingParams(60, seed=3)
    free = alone(model, [1, 2], params)[0]
    allowed = torch.arange(61) % 2 == 0
    idle, strict = Heard(veto=lambda t: None), Heard(veto=lambda t: None if t % 2 == 0 else allowed)
    live.submit([1, 2], params, [idle.controls])
    live.submit([1, 2], params, [strict.controls])
    drain(live)
    assert idle.ids == free
    assert all(t % 2 == 0 for t in strict.ids) and len(strict.ids) == 60
    first_odd = next(i for i, t in enumerate(free) if t % 2)
    assert strict.ids[:first_odd] == free[:first_odd]


def test_a_veto_draws_from_the_masked_distribution(model: Decoder) -> None:
    live, allowed = Engine(model, max_batch=400).open(), torch.arange(61) < 40
    heard = [Heard(veto=lambda t: None if t < 40 else allowed, top_logprobs=61) for _ in range(400)]
    live.submit([1, 2], SamplingParams(1, seed=1), [h.controls for h in heard])
    live.step()
    probs = torch.zeros(61).index_put((torch.tensor([i for i, _ in heard[0].tokens[0].top[1:]]),),
                                      torch.tensor([p for _, p in heard[0].tokens[0].top[1:]]).exp())  # fmt: skip
    expected = torch.where(allowed, probs, 0.0) / probs[allowed].sum()
    counts = torch.bincount(torch.tensor([h.ids[0] for h in heard]), minlength=61) / 400
    assert (counts - expected).abs().max() < 4 * (0.25 / 400) ** 0.5


class Reader(Heard):
    """Reads several tokens at once, refuses odd ones where `strict`, and wants to be asked after each of `care`."""

    def __init__(self, strict: bool = False, care: tuple[int, ...] = (), stop: int | None = None) -> None:
        super().__init__()
        self.most, self.stop, allowed = 0, stop, torch.arange(61) % 2 == 0
        self.veto = (lambda t: None if t % 2 == 0 else allowed) if strict else (lambda t: None)
        self.controls = Controls(
            veto=self.veto, watch=self.watch, read=self.read, on_end=self.controls.on_end,
            careful=lambda: bool(self.tokens) and self.tokens[-1].id in care,
        )  # fmt: skip

    def watch(self, token: Token) -> bool:
        self.tokens.append(token)
        return token.id == self.stop

    def read(self, tokens: list[int], logprobs: list[float]) -> tuple[int, bool]:
        self.most = max(self.most, len(tokens))
        for i, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            if self.veto(token) is not None:
                return i, False
            if self.watch(Token(token, logprob)):
                return i + 1, True
        return len(tokens), False


@pytest.mark.parametrize("care", [(), (7, 8, 9)])
def test_those_who_read_several_tokens_at_once_hear_the_same(model: Decoder, care: tuple[int, ...]) -> None:
    params = [SamplingParams(150, seed=i, temperature=1.0, stop_token_ids=(5, 6)[: i % 3]) for i in range(9)]
    slow, fast = Engine(model, max_batch=4).open(), Engine(model, max_batch=4).open(interval=10.0)
    heard: list[list[Heard]] = [[], []]
    for i, p in enumerate(params):
        reader = Reader(strict=i == 1, care=care, stop=11 if i > 4 else None)
        plain = Heard(veto=reader.veto)
        watch = lambda t, h=plain, r=reader: h.tokens.append(t) or t.id == r.stop  # noqa: E731
        plain.controls = replace(plain.controls, watch=watch)
        for live, h, kept in zip((slow, fast), (plain, reader), heard, strict=True):
            live.submit([1 + i, 2, 3], p, [h.controls])
            kept.append(h)
    for live in (slow, fast):
        drain(live)
    for one, several in zip(*heard, strict=True):
        assert several.tokens == one.tokens and several.ends == one.ends
    assert max(r.most for r in heard[1]) > 10  # type: ignore[attr-defined]


def test_readers_hear_the_rest_when_they_are_aborted_and_a_failing_one_ends_alone(model: Decoder) -> None:
    live, params = Engine(model, max_batch=4).open(interval=10.0), SamplingParams(40, seed=1)
    good, gone, bad = Reader(), Reader(), Heard()
    live.submit([1, 2], params, [good.controls])
    (number,) = live.submit([1, 3], params, [gone.controls])
    live.submit([1, 4], params, [replace(bad.controls, read=lambda tokens, logprobs: 1 // 0)])
    for _ in range(3):
        live.step()
    live.abort(number)
    drain(live)
    assert good.ids == alone(model, [1, 2], params)[0]
    assert 1 < len(gone.ids) and gone.ids == alone(model, [1, 3], params)[0][: len(gone.ids)]
    assert isinstance(bad.ends[0][1], ZeroDivisionError)
