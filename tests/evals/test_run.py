"""The evaluation run with an engine of canned completions: every rule can be checked by hand."""

from __future__ import annotations

import pytest
from evals_kit import STOP, Completion, Item, Params, Sum

from doran.base.errors import ArtifactError, DataError
from doran.evals.run import EvalResult, chat_style, completion_text, evaluate, plain_style


class Letters:
    """Tokenizer of code points; id 1 ends a reply."""

    bos_id, eos_id, stop_ids = 0, STOP, (STOP,)

    def encode(self, text: str, specials: bool = False) -> list[int]:
        return [ord(c) for c in text]

    def encode_chat(self, messages, add_generation_prompt: bool = True) -> list[int]:
        return self.encode("[" + messages[0]["content"] + "]")

    def decode(self, ids, skip_special: bool = False) -> str:
        return "".join({0: "<bos>", 1: "<end>"}.get(i, chr(i)) for i in ids)


class Canned:
    """An engine that answers every prompt with the same texts and notes what it was asked."""

    def __init__(self, *texts: str, cut: bool = False) -> None:
        self.texts, self.cut = texts, cut

    def generate(self, prompts, params, n=1):
        self.prompts, self.params = prompts, params
        ends = ([], "length") if self.cut else ([STOP], "stop")
        return [[Completion([ord(c) for c in t] + ends[0], ends[1]) for t in self.texts[:n]] for _ in prompts]


GOOD, WRONG, BARE = "<think>three and four</think>7", "<think>셋 더하기 넷</think>8", "7"


def run(engine: Canned, items=None, k: int = 3, **more) -> EvalResult:
    return evaluate(None, Letters(), Sum(), items or [Item("3+4?")], k, Params(), engine=engine, **more)


def test_every_completion_is_scored_counted_and_told_apart():
    result = run(Canned(GOOD, WRONG, BARE))
    item = result.items[0]
    assert item.num_correct == 2 and [o.answer for o in item.outcomes] == ["7", "8", "7"]
    assert [o.well_formed for o in item.outcomes] == [True, True, False]
    assert [o.thought_language for o in item.outcomes] == ["en", "ko", None]
    assert item.outcomes[0].length == len(GOOD) + 1  # the stop token is a token
    summary = result.summary()["all"]
    assert summary["pass@1"].value == pytest.approx(2 / 3) and summary["cons@3"].value == 1.0


def test_a_truncated_completion_counts_as_no_answer():
    result = run(Canned(GOOD, cut=True), k=1)
    outcome = result.items[0].outcomes[0]
    assert outcome.truncated and outcome.answer is None and not outcome.correct and not outcome.well_formed
    assert result.summary()["all"]["pass@1"].value == 0.0


def test_the_stop_token_is_not_part_of_the_text():
    assert completion_text(Letters(), Completion([ord("7"), STOP])) == "7"
    assert completion_text(Letters(), Completion([ord("7"), ord("8")], "length")) == "78"


def test_a_prompt_that_opens_the_thought_gives_the_tag_back():
    def opened(tokenizer, prompt):
        return tokenizer.encode(prompt + "<think>\n")

    result = run(Canned("three and four</think>7"), k=1, prompt_style=opened)
    assert result.items[0].texts[0].startswith("<think>three") and result.items[0].outcomes[0].well_formed


def test_prompt_styles_wrap_the_question():
    engine = Canned(GOOD)
    run(engine, k=1)
    assert Letters().decode(engine.prompts[0]) == "[3+4?]"
    run(engine, k=1, prompt_style=plain_style)
    assert Letters().decode(engine.prompts[0]) == "<bos>User: 3+4?\nAssistant:"
    assert chat_style(Letters(), "q") == Letters().encode("[q]")


def test_each_item_has_its_own_seed_whatever_stands_around_it():
    items, engine = [Item("a", key="a"), Item("b", key="b"), Item("b", key="b", language="ko")], Canned(GOOD)
    run(engine, items, k=1)
    seeds = [p.seed for p in engine.params]
    run(engine, items[::-1], k=1)
    assert len(set(seeds)) == 3 and [p.seed for p in engine.params] == seeds[::-1]
    assert all(p.stop_token_ids == (STOP,) for p in engine.params)


def test_languages_are_summed_apart_and_compared():
    items = [Item("q", key=str(i), language=lang) for i in range(20) for lang in ("en", "ko")]
    result = run(Canned(GOOD), items, k=1)
    summary = result.summary()
    assert set(summary) == {"all", "en", "ko"}
    assert summary["en"]["thought_language"].value == 1.0 and summary["ko"]["thought_language"].value == 0.0
    gap = result.language_gap("ko", "en")
    assert gap.questions == 20 and gap.interval.value == 0.0


def test_two_results_are_compared_on_the_questions_both_have():
    items = [Item("q", key=str(i)) for i in range(30)]
    worse, better = run(Canned(WRONG), items, k=1), run(Canned(GOOD), items[:25], k=1)
    assert better.better_than(worse).questions == 25 and better.better_than(worse).certain


def test_json_round_trip(tmp_path):
    result = run(Canned(GOOD, WRONG, BARE), [Item("가", key="a", language="ko"), Item("b", key="b", answer=None)])
    result.save(tmp_path / "eval.json")
    loaded = EvalResult.load(tmp_path / "eval.json")
    assert loaded == result and loaded.to_dict() == result.to_dict()
    assert result.to_dict()["metrics"]["ko"]["pass@1"]["value"] == pytest.approx(2 / 3)


def test_a_file_that_is_no_evaluation_is_named(tmp_path):
    (tmp_path / "other.json").write_text('{"items": [1]}')
    with pytest.raises(DataError, match=r"other\.json"):
        EvalResult.load(tmp_path / "other.json")
    with pytest.raises(ArtifactError):
        EvalResult.load(tmp_path / "missing.json")


def test_nothing_to_measure_is_refused():
    with pytest.raises(DataError, match="0 items"):
        evaluate(None, Letters(), Sum(), [], 1, Params(), engine=Canned(GOOD))
    with pytest.raises(DataError, match="k = 0"):
        run(Canned(GOOD), k=0)


def test_the_real_engine_gives_the_same_result_twice_and_reports_progress():
    pytest.importorskip("torch")
    from doran.arch import presets
    from doran.engine import SamplingParams
    from doran.models import build
    from doran.tasks.task import get_task
    from doran.text.tokenizer import train_bpe

    tokenizer = train_bpe(["make the number 숫자를 만드세요"], 300, whole_numbers_up_to=9)
    model = build(presets.tiny("llama", vocab_size=tokenizer.vocab_size))
    task = get_task("countdown")
    items, params, seen = task.generate("test", 3, 0), SamplingParams(max_new_tokens=6), []
    first = evaluate(model, tokenizer, task, items, 2, params, on_finish=lambda done, of: seen.append((done, of)))
    again = evaluate(model, tokenizer, task, items[::-1], 2, params, prompt_style=chat_style, max_batch=2)
    assert seen == [(i, 6) for i in range(1, 7)]
    assert {i.key: i.outcomes for i in first.items} == {i.key: i.outcomes for i in again.items}
    assert EvalResult.from_dict(first.to_dict()) == first
