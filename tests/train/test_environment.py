"""Turns in an environment: tokens in, tokens out, the right masks; and the calculator of examples/."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from grpo_kit import DIALECT, ITEMS, REWARDS, rows, run, settings

from doran.base.errors import DoranError
from doran.data.packing import IGNORE
from doran.engine.engine import Engine
from doran.text.tokenizer import train_bpe
from doran.train.rollout import Source, roll_out
from doran.train.sampling import Sampler
from doran.train.update import frozen_logprobs, micro_batches

CALL, REPLY = 5, [9, 8]


class Tool:
    """Answers token 5 with 9 8, three times an episode; anything else ends it."""

    stop_token_ids = (CALL, *range(12, 32))

    def __init__(self) -> None:
        self.heard: list[str] = []

    def begin(self, item: Any):
        calls = 0

        def reply(text: str) -> list[int] | None:
            nonlocal calls
            self.heard.append(text)
            calls += 1
            return REPLY if not text.endswith(" 1") and calls <= 3 else None

        return reply


def episodes(model, environment, **changes):
    changes = {"group_size": 8, "max_new_tokens": 24, "max_turns": 4} | changes
    sampler = Sampler(Engine(model), DIALECT, settings(**changes), environment)
    return sampler, roll_out(Source(sampler, ITEMS, REWARDS), 0)


def test_masks_tell_the_models_tokens_from_the_environments(make_model) -> None:
    tool = Tool()
    _, rollout = episodes(make_model(), tool)
    several = [x for x in rollout.samples if x.mask is not None and False in x.mask]
    assert several
    for x in several:
        ids, logprobs, mask = x.completion.token_ids, x.completion.logprobs, x.mask
        assert len(ids) == len(logprobs) == len(mask) <= 24
        theirs = [i for i, own in enumerate(mask) if not own]
        assert [ids[i] for i in theirs] == REPLY * (len(theirs) // 2) and all(logprobs[i] == 0 for i in theirs)
        assert all(logprobs[i] < 0 for i, own in enumerate(mask) if own)
        assert x.num_learned + len(theirs) == x.length and len(x.learned_logprobs) == x.num_learned
    assert all(len(heard.split()) >= 1 for heard in tool.heard)
    assert not any(heard.startswith("9 8") for heard in tool.heard)  # a turn's text is the model's alone


def test_the_trainer_sees_the_tokens_that_were_sampled(make_model) -> None:
    model = make_model()
    sampler, rollout = episodes(model, Tool())
    for micro in micro_batches(rollout.samples, sampler.settings):
        assert int((micro.batch.targets_T != IGNORE).sum()) == len(micro.rollout_logprobs_N) == len(micro.weights_N)
        trainer = frozen_logprobs(model, micro.batch, sampler.settings)
        torch.testing.assert_close(trainer, micro.rollout_logprobs_N, atol=1e-4, rtol=0)


def test_an_episode_without_room_for_the_answer_counts_as_cut_off(make_model) -> None:
    _, rollout = episodes(make_model(), Tool(), max_turns=1)
    assert all(x.mask is None or all(x.mask) for x in rollout.samples)
    assert any(x.truncated and x.length < 24 for x in rollout.samples)


def test_an_environment_that_raises_is_named_or_left_out(make_model) -> None:
    class Broken(Tool):
        def begin(self, item: Any):
            if item % 2:
                return super().begin(item)

            def reply(text: str) -> list[int] | None:
                raise OSError("no connection")

            return reply

    with pytest.raises(DoranError, match="environment failed for .*OSError: no connection"):
        episodes(make_model(), Broken())
    _, rollout = episodes(make_model(), Broken(), on_fault="drop", prompts_per_step=9)
    assert {x.item % 2 for x in rollout.samples if x.fault} == {0}
    assert all(x.item % 2 for x in rollout.kept if not x.truncated)


def test_a_run_in_an_environment_learns_and_counts(make_model, tmp_path) -> None:
    run(make_model(), tmp_path, environment=Tool(), steps=2, max_new_tokens=24)
    assert all(row["environment/tokens"] > 0 and row["gap/max"] < 1e-4 for row in rows(tmp_path))


def calculator_module():
    path = Path(__file__).resolve().parents[2] / "examples" / "calculator_tool.py"
    spec = importlib.util.spec_from_file_location("calculator_tool", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("try 12*7=", "84"),
        ("try 12 * 7 =", " 84"),
        ("(1 + 2) * 3 =", " 9"),
        ("7 - 9=", "-2"),
        ("7 / 2 =", ""),
        ("7 / 0 =", ""),
        ("so x =", ""),
        ("9**9**9=", ""),
        ("so it is 84.", None),
    ],
)
def test_the_calculator_of_the_examples_completes_sums(text: str, answer: str | None) -> None:
    tokenizer = train_bpe(["try 12 * 7 = 84; (1 + 2) * 3=9, 7 - 9 = -2"], 400, whole_numbers_up_to=99)
    calculator = calculator_module().Calculator(tokenizer)
    assert tokenizer.encode("=")[-1] in calculator.stop_token_ids
    ids = calculator.begin(None)(text)
    assert (None if ids is None else tokenizer.decode(ids)) == answer
