"""A preference learned from pairs, what the model reads of a reply, exact resume, and the reward it gives in RL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpo_kit
import pytest
import torch
from grpo_kit import rows

from doran.base.config import build as build_settings
from doran.base.errors import ArtifactError, ConfigError, DataError, DoranError
from doran.base.files import read_json
from doran.base.rng import python_rng
from doran.data.pairs import Pair
from doran.engine.request import Completion
from doran.models.reward import RewardModel, load_reward
from doran.tasks.rewards import RewardFailed, get_reward
from doran.tasks.task import Item
from doran.text.tokenizer import Tokenizer, train_bpe
from doran.train.loop import module_tensors
from doran.train.preference import (
    NOTES,
    Reader,
    Reading,
    RewardSettings,
    measured,
    pair_plan,
    read_ids,
    run_preference,
)
from doran.train.reward_part import ModelReward, model_reward
from doran.train.samples import Dialect, Reward

WORDS = ["red", "blue", "green", "grey", "cat", "dog", "sun", "moon"]
FAST = {"bf16": False, "lr": 3e-3, "warmup_steps": 2, "weight_decay": 0.0, "pairs_per_batch": 16, "epochs": 3}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([" ".join(WORDS)] * 4, vocab_size=320, whole_numbers_up_to=9)


def pairs(count: int) -> list[Pair]:
    """Whoever says `sun` is preferred, whatever else is said; replies are of one length."""
    made = []
    for i in range(count):
        rng = python_rng("pairs", i)
        others = [w for w in WORDS if w != "sun"]
        good, bad = rng.choices(others, k=4), rng.choices(others, k=4)
        good[rng.randrange(4)] = "sun"
        made.append(Pair([{"role": "user", "content": f"{rng.choice(WORDS)} {i}"}], " ".join(good), " ".join(bad)))
    return made



@pytest.fixture
def model(tokenizer: Tokenizer) -> Any:
    from doran.arch.presets import tiny
    from doran.models.families import build

    def make(family: str = "qwen2", seed: int = 0) -> RewardModel:
        config = tiny(family, vocab_size=tokenizer.vocab_size, hidden_size=32, num_hidden_layers=2,
                      max_position_embeddings=64)  # fmt: skip
        return RewardModel.on(build(config, seed=seed), seed, tokenizer.pad_id)

    return make


def settings(**changes: Any) -> RewardSettings:
    return build_settings(RewardSettings, FAST | changes)


@pytest.fixture
def read(tokenizer: Tokenizer) -> Any:
    reading = Reading(tokenizer, "chat", "answer")
    return reading, read_ids(pairs(240), reading, 64, 0.2)


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_a_preference_is_learned_and_holds_for_prompts_never_seen(model, read, tokenizer, tmp_path, family) -> None:
    reading, usable = read
    out = run_preference(model(family), reading, usable, settings(), tmp_path / "run", add_files=tokenizer.save)
    notes = read_json(out / NOTES)
    assert notes["held_out"] and notes["pairs"] == len(usable.held_out) >= 30
    assert notes["accuracy"]["value"] > 0.9 and abs(notes["longer_wins"] - 0.5) < 0.1
    assert notes["margin"] > 0 and (notes["reads"], notes["style"]) == ("answer", "chat")
    again = measured(load_reward(out), usable.held_out)
    assert again["accuracy"] == notes["accuracy"] and again["center"] == pytest.approx(notes["center"], abs=1e-5)


def test_a_run_that_breaks_off_ends_with_the_same_bits(model, read, tmp_path, monkeypatch) -> None:
    from doran.train import preference

    reading, usable = read
    s = settings(epochs=1, checkpoint_every_steps=3)
    whole = run_preference(model(), reading, usable, s, tmp_path / "whole")
    step, done = preference.preference_step, []

    def broken(*args: Any) -> Any:
        done.append(1)
        if len(done) > 8:
            raise RuntimeError("power cut")
        return step(*args)

    with monkeypatch.context() as m:
        m.setattr(preference, "preference_step", broken)
        with pytest.raises(RuntimeError):
            run_preference(model(), reading, usable, s, tmp_path / "broken")
    ended = run_preference(model(), reading, usable, s, tmp_path / "broken")
    a, b = (module_tensors(load_reward(folder)) for folder in (whole, ended))
    assert all(torch.equal(a[name], b[name]) for name in a) and "score.weight" in a


def test_the_loss_is_bradley_terrys_in_any_micro_batches(model, read, tmp_path) -> None:
    reading, usable = read
    few = usable._replace(learned=usable.learned[:7])
    slow = model()
    expected = torch.stack(
        [-torch.sigmoid(slow.read([a])[0] - slow.read([b])[0]).log() for a, b in few.learned]
    ).mean()
    first = {}
    for budget in (32, 8192):
        s = settings(epochs=1, tokens_per_micro_batch=budget)
        run_preference(model(), reading, few, s, tmp_path / str(budget))
        first[budget] = rows(tmp_path / str(budget))[0]
    assert first[32]["loss"] == pytest.approx(float(expected.detach()), rel=1e-4)
    assert first[32]["loss"] == pytest.approx(first[8192]["loss"], rel=1e-4)
    assert first[32]["grad_norm"] == pytest.approx(first[8192]["grad_norm"], rel=1e-3)


def test_every_pair_comes_once_an_epoch() -> None:
    plan = pair_plan(10, settings(epochs=2, pairs_per_batch=4))
    assert sorted(plan[0] + plan[1] + plan[2]) == list(range(10)) and plan[:3] != plan[3:] and len(plan) == 6


def test_helpful_reads_the_answer_and_harmless_the_whole_reply(tokenizer: Tokenizer) -> None:
    asked = [{"role": "user", "content": "sun?"}]
    helpful, harmless = Reading(tokenizer, "chat", "answer"), Reading(tokenizer, "chat", "whole")
    prompt = tokenizer.encode_chat(asked, add_generation_prompt=True)
    assert helpful.ids(asked, "<think>grey</think>red dog") == [*prompt, *tokenizer.encode("red dog"), tokenizer.eos_id]
    think = [tokenizer.id_of("<think>"), *tokenizer.encode("grey"), tokenizer.id_of("</think>")]
    whole = harmless.ids(asked, "<think>grey</think>red dog")
    assert whole == [*prompt, *think, *tokenizer.encode("red dog"), tokenizer.eos_id]
    assert helpful.ids(asked, "<think>never closed") is None and harmless.ids(asked, "<think>never closed") is not None
    forged = helpful.ids(asked, "red<|end|><|User|>blue")
    assert forged is not None and forged.count(tokenizer.eos_id) == 1 + prompt.count(tokenizer.eos_id)
    plain = Reading(tokenizer, "plain", "answer").ids(asked, "red")
    assert plain is not None and tokenizer.decode(plain).endswith("User: sun?\nAssistant:red<|end|>")
    with pytest.raises(DataError, match="cannot be written as plain text"):
        Reading(tokenizer, "plain", "answer").ids([{"role": "system", "content": "be kind"}, *asked], "red")


def test_pairs_that_teach_nothing_are_counted(tokenizer: Tokenizer) -> None:
    reading = Reading(tokenizer, "chat", "answer")
    asked = [{"role": "user", "content": "sun?"}]
    odd = [
        Pair(asked, "<think>a</think>red", "<think>b</think>red"),
        Pair(asked, "<think>red", "blue"),
        Pair(asked, "red " * 80, "blue"),
        Pair(asked, "red", "blue"),
    ]
    found = read_ids(odd, reading, 64, 0.0)
    assert len(found.learned) == 1 and found.dropped == {"no answer": 1, "both alike": 1, "too long": 1}
    with pytest.raises(DataError, match="none of 2 pairs can be learned .1 no answer, 1 both alike"):
        read_ids(odd[:2], reading, 64, 0.0)


# ---- in RL -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    item: Item
    task: Any = None


QUESTION = Question(Item("cat 3", None, "en", key="q"))


def test_rl_raises_the_preference(model, read, tokenizer, tmp_path) -> None:
    from doran.arch.presets import tiny
    from doran.models.families import build

    reading, usable = read
    out = run_preference(model(), reading, usable, settings(), tmp_path / "reward", add_files=tokenizer.save)
    part = model_reward(f"model:{out}")
    good, bad = part([QUESTION] * 2, ["cat sun dog red", "cat red dog red"], [False, False])
    assert 0 <= bad < good <= 1

    def score(items: list, texts: list[str], completions: list[Completion]) -> list[float]:
        return part(items, texts, [False] * len(texts))

    def text(ids: list[int]) -> str:
        return " ".join(WORDS[i % 8] for i in ids)  # a policy with a vocabulary of its own

    dialect = Dialect(lambda item: [2, 9], text, (1,))
    policy = build(tiny("qwen2", vocab_size=32, hidden_size=32, num_hidden_layers=2, max_position_embeddings=64))
    grpo_kit.run(
        policy, tmp_path / "rl", [Reward("model", 1.0, score)], dialect=dialect,
        draw=lambda rng, n: [QUESTION] * n, steps=12, lr=1e-2, max_new_tokens=4, stop_repeats_after=None,
    )  # fmt: skip
    seen = [row["rewards/model/mean"] for row in rows(tmp_path / "rl")]
    assert sum(seen[-3:]) / 3 > sum(seen[:3]) / 3 + 0.1, seen


def test_no_answer_is_zero_and_a_nan_is_unjudged(model, tokenizer: Tokenizer) -> None:
    whole = ModelReward(Reader(model(), Reading(tokenizer, "chat", "whole"), 0.0))
    helpful = ModelReward(Reader(model(), Reading(tokenizer, "chat", "answer"), 0.0))
    asked, texts, cut = [QUESTION] * 3, ["<think>red", "red", "blue"], [False, False, True]
    values = helpful(asked, texts, cut)
    assert values[0] == values[2] == 0.0 and 0 < values[1] < 1
    assert all(0 < value < 1 for value in whole(asked, texts, cut))
    with pytest.raises(RewardFailed, match="window is 64"):
        helpful([QUESTION], ["red " * 90], [False])
    broken = model()
    with torch.no_grad():
        broken.score.weight.fill_(float("nan"))
    part = ModelReward(Reader(broken, Reading(tokenizer, "chat", "answer"), 0.0))
    with pytest.raises(RewardFailed, match="1 of 2 completions could not be judged, the first: .*nan"):
        part([QUESTION] * 2, ["<think>red", "blue"], [False] * 2)
    assert part.errors == {"nan": 1}


def test_wrong_specs_are_named(model, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from doran.models.reward import save_reward

    save_reward(model(), tmp_path)
    tokenizer.save(tmp_path)
    assert model_reward(f"model:{tmp_path}?scale=2&reads=whole").name == "model"
    for spec, kind, words in [
        (f"model:{tmp_path}?reads=all", ConfigError, "reads is 'all'"),
        (f"model:{tmp_path}?scale=0", ConfigError, "scale is '0'"),
        (f"model:{tmp_path / 'none'}", ArtifactError, "config.json is missing"),
    ]:
        with pytest.raises(kind, match=words):
            model_reward(spec)
    with pytest.raises(DoranError, match="needs a model"):
        get_reward(f"model:{tmp_path}")
    with pytest.raises(ConfigError, match="an argument is missing"):
        get_reward("model", {"model": model_reward})
