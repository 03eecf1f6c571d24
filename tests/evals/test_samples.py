"""Evaluations that are killed and go on: the same numbers, whatever was kept."""

from __future__ import annotations

import json

import pytest
from evals_kit import STOP, Completion, Item, Params, Sum

from doran.base.errors import ConfigError
from doran.evals.samples import EngineSampler, cut_at_stop, evaluate_kept, priced


class Letters:
    bos_id, eos_id, stop_ids = 0, STOP, (STOP,)

    def encode(self, text, specials=False):
        return [ord(c) for c in text]

    def encode_chat(self, messages, add_generation_prompt=True):
        return self.encode(messages[0]["content"])

    def decode(self, ids, skip_special=False):
        return "".join(chr(i) for i in ids if i > 1)


class Drawing:
    """An engine whose replies depend on the whole batch, as bits of a real one do; it dies after some calls."""

    def __init__(self, lives: int = 99) -> None:
        self.lives, self.calls = lives, []

    def generate(self, prompts, params, n=1, on_finish=None):
        if not self.lives:
            raise KeyboardInterrupt
        self.lives -= 1
        self.calls.append(len(prompts))
        mix = sum(p.seed for p in params)
        texts = [[str((p.seed + j + mix) % 3 + 6) for j in range(n)] for p in params]
        return [[Completion([ord(t), STOP]) for t in row] for row in texts]


ITEMS = [Item(f"q{i}", key=f"k{i}") for i in range(10)]


def run(engine, samples=None, recipe=None):
    sampler = EngineSampler(None, Letters(), Params(), engine=engine, max_batch=8)
    return evaluate_kept(sampler, Sum(), ITEMS, 2, Params(), recipe or {"task": "sum"}, samples=samples)


def without_time(result):
    return json.loads(json.dumps(result.to_dict() | {"facts": None}))


def test_a_killed_evaluation_goes_on_with_the_same_numbers(tmp_path):
    whole = run(Drawing())
    file = tmp_path / "r.samples.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(Drawing(lives=2), file)
    torn = file.read_text().splitlines(keepends=True)
    assert len(torn) == 1 + 8  # the recipe, and two chunks of four questions
    file.write_text("".join(torn[:-2]) + '{"item": 6, "ke')  # killed while writing: a part of a chunk, a torn line
    engine = Drawing()
    continued = run(engine, file)
    assert engine.calls == [4, 2]  # the broken chunk as a whole, and the last one
    assert without_time(continued) == without_time(whole)
    assert continued.facts["cost"]["tokens"] == whole.facts["cost"]["tokens"] == 40
    idle = Drawing(lives=0)
    assert without_time(run(idle, file)) == without_time(whole) and idle.calls == []


def test_samples_of_another_recipe_are_not_continued(tmp_path):
    file = tmp_path / "r.samples.jsonl"
    first = run(Drawing(), file)
    _with(file, {"task": "sum", "temperature": 0.6})
    with pytest.raises(ConfigError, match="temperature 0.6, now it is 1.0"):
        run(Drawing(), file, {"task": "sum", "temperature": 1.0})
    assert first.facts["recipe_hash"] == run(Drawing()).facts["recipe_hash"]


def _with(file, recipe):
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(json.dumps({"recipe": recipe}) + "\n" + "".join(lines[1:]))


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("<think>Q: or not</think>7\nQ: next", ("<think>Q: or not</think>7\n", True)),
        ("<think>Q: never closed", ("<think>Q: never closed", False)),
        ("7 Q: 8", ("7 ", True)),
        ("<think>a</think>7", ("<think>a</think>7", False)),
        ("7<think>Q:</think>8Q:", ("7<think>Q:</think>8", True)),
    ],
)
def test_stop_strings_end_answers_and_not_thoughts(text, cut):
    assert cut_at_stop(text, ["Q:"]) == cut


def test_a_reply_that_reached_its_stop_string_is_not_truncated():
    class Cut:
        def generate(self, prompts, params, n=1, on_finish=None):
            return [[Completion([ord(c) for c in "7|rest"], "length")] for _ in prompts]

    sampler = EngineSampler(None, Letters(), Params(), engine=Cut(), stops=["|"])
    outcome = evaluate_kept(sampler, Sum(), ITEMS[:1], 1, Params(), {}).items[0].outcomes[0]
    assert outcome.correct and not outcome.truncated and outcome.length == 6


def test_money_is_split_over_questions_and_correct_replies():
    result = run(Drawing())
    priced_result = priced(result, 2.0, 1400, "test")
    correct = sum(item.num_correct for item in result.items)
    cost = priced_result.facts["cost"]
    assert cost["krw"] == 2800 and cost["per_question"]["usd"] == pytest.approx(0.2)
    assert cost["per_correct"]["tokens"] == (40 / correct if correct else None)
    assert "usd" not in priced(result, None, 1400, "").facts["cost"]
