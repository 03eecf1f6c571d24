"""A random model through the whole of `doran localise`, resumed, and the parts that can be checked by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from doran.arch import presets
from doran.base.config import build as build_settings
from doran.base.errors import ConfigError, DataError
from doran.layers.attention import PackedAttend
from doran.models import build
from doran.models.weights import load_model, save_model
from doran.plan.hardware import CPU, Hardware
from doran.plan.recipe_file import recipe_plans
from doran.recipes.ledger import Ledger
from doran.recipes.localise import run_localise
from doran.recipes.localise_measure import bits_per_byte, cost, lines, measured
from doran.recipes.localise_model import extend_model
from doran.recipes.localise_recipe import LocaliseRecipe, load_localise
from doran.recipes.localise_report import report_lines
from doran.text.extend import extend_bpe
from doran.text.tokenizer import Tokenizer, train_bpe

KOREAN = ["어머니는 시장에서 사과를 사셨습니다. 동생은 학교에 갔습니다."] * 5
RL = {"steps": 1, "prompts_per_step": 1, "group_size": 2, "max_new_tokens": 8}
SMALL: dict[str, Any] = {
    "name": "small", "threads": 1,
    "tasks": {"countdown": {"numbers": 3, "max_number": 6, "min_target": 6, "max_target": 18},
              "arithmetic": {"max_operations": 1, "min_operations": 1, "max_number": 9, "max_value": 18},
              "word_problems": {"max_number": 10, "max_value": 18, "max_steps": 1}},
    "texts": {"generated": 50, "held_out": 0.2, "measured": 3},
    "extend": {"num_new": 20},
    "pretrain": {"replay_documents": 20, "window": 128, "corpus": {"search": {"max_value": 36}},
                 "train": {"steps": 2, "tokens_per_batch": 256}},
    "sft": {"sampling": {"questions": {"word_problems": 2}, "samples": 1, "max_new_tokens": 8, "general": 4},
            "train": {"epochs": 1, "tokens_per_batch": 256}},
    "rl": {"tasks": {"word_problems": 1.0}, "rewards": {"accuracy": 1.0, "language": 0.2}, "pool": 4, "train": RL},
    "evaluate": {"tasks": ["word_problems"], "items": 2, "samples": 2, "max_new_tokens": 8},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["the answer is 3 + 4 = 7", "안녕하세요"] * 9, 400, whole_numbers_up_to=20)


@pytest.fixture(scope="module")
def source(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "model"
    save_model(build(presets.tiny("llama", vocab_size=tokenizer.vocab_size)), folder)
    tokenizer.save(folder)
    return folder


def test_the_whole_route_makes_a_folder_a_report_and_goes_on_where_it_was(source: Path, tmp_path: Path) -> None:
    recipe, said = build_settings(LocaliseRecipe, SMALL), []
    run_dir = run_localise(recipe, source, tmp_path, say=said.append)
    found = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    old, new = found["figures"]["before"], found["figures"]["after"]
    assert new["ko"]["tokens_per_sentence"] < old["ko"]["tokens_per_sentence"]
    assert new["en"]["tokens_per_sentence"] == old["en"]["tokens_per_sentence"]
    assert found["figures"]["extend"]["english_unchanged"] is True
    assert "word_problems, ko: pass@1" in "\n".join(report_lines(run_dir / "report.json"))
    made = run_dir / "model"
    assert load_model(made).config.vocab_size == Tokenizer.load(made).vocab_size > old["vocab_size"]
    assert "new tokens" in (made / "README.md").read_text(encoding="utf-8")
    assert "as it came" in (run_dir / "report.html").read_text(encoding="utf-8")
    said.clear()
    run_localise(recipe, source, tmp_path, say=said.append)
    assert not any(line.startswith("[") for line in said)  # nothing was made again
    changed = build_settings(LocaliseRecipe, SMALL | {"extend": {"num_new": 5}})
    with pytest.raises(ConfigError, match="other settings"):
        run_localise(changed, source, tmp_path, say=said.append)


@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_new_rows_come_from_the_pieces_and_old_ones_stay(family: str, tokenizer: Tokenizer) -> None:
    model, made = build(presets.tiny(family, vocab_size=tokenizer.vocab_size)), extend_bpe(tokenizer, KOREAN, 10)
    grown = extend_model(model, made)
    old, new = model.model.embed_tokens.weight, grown.model.embed_tokens.weight
    assert torch.equal(new[: len(old)], old) and len(new) == len(old) + made.num_new
    assert torch.allclose(new[made.first_id + 3], old[made.pieces[3]].mean(0))
    if grown.lm_head is not None and model.lm_head is not None:
        assert torch.allclose(grown.lm_head.weight[made.first_id + 3], model.lm_head.weight[made.pieces[3][0]])
    ids = torch.tensor(tokenizer.encode("the answer is 7"))
    attend = PackedAttend(torch.tensor([0, len(ids)], dtype=torch.int32))
    with torch.no_grad():
        assert torch.equal(model(ids, torch.arange(len(ids)), attend), grown(ids, torch.arange(len(ids)), attend))


def test_costs_are_counted_by_hand(tokenizer: Tokenizer) -> None:
    found = cost(tokenizer, ["안녕하세요. 가나!"])
    assert (found.sentences, found.syllables, found.bytes) == (2, 7, 7 * 3 + 3)
    assert found.tokens == sum(len(tokenizer.encode(part)) for part in ("안녕하세요.", " 가나!"))
    assert found.tokens_per_syllable == found.tokens / 7 and 0 < found.whole_syllables < 1
    assert cost(tokenizer, ["English only."]).tokens_per_syllable is None
    with pytest.raises(DataError, match="no text"):
        cost(tokenizer, [" "])


def test_bits_a_byte_are_the_slow_sum(tokenizer: Tokenizer) -> None:
    model, text = build(presets.tiny("llama", vocab_size=tokenizer.vocab_size)), "안녕 the answer is 7"
    ids = torch.tensor([tokenizer.bos_id, *tokenizer.encode(text)])
    with torch.no_grad():
        h_TD = model(ids, torch.arange(len(ids)), PackedAttend(torch.tensor([0, len(ids)], dtype=torch.int32)))
        logprobs_TV = model.logits(h_TD).log_softmax(-1)
    slow = -sum(float(logprobs_TV[t, ids[t + 1]]) for t in range(len(ids) - 1)) / math.log(2) / len(text.encode())
    assert bits_per_byte(model, tokenizer, [text]) == pytest.approx(slow, rel=1e-4)
    assert "Korean    tokens a sentence" in "\n".join(lines({"x": measured(tokenizer, None, KOREAN, ["English."])}))


def test_the_meter_knows_what_the_stages_to_come_should_cost(repo_root: Path, source: Path, tmp_path: Path) -> None:
    recipe = load_localise(repo_root / "recipes" / "localise-tiny.yaml", [f"model={source}"])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    ledger = Ledger(recipe, tmp_path, Hardware())  # type: ignore[arg-type]
    assert set(ledger.predicted) == {"pretrain", "sft", "rl"}
    assert ledger.open(tmp_path / "stages" / "04-sft", "sft").later == pytest.approx(ledger.predicted["pretrain"]
                                                                                  + ledger.predicted["rl"])  # fmt: skip
    recipe = recipe.model_copy(update={"model": str(tmp_path)})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    with pytest.raises(ConfigError, match="no config.json"):
        recipe_plans(tmp_path / "recipe.yaml", (), Hardware(), CPU)


def test_the_shipped_recipe_is_read_and_a_wrong_key_is_named(repo_root: Path) -> None:
    file = repo_root / "recipes" / "localise-tiny.yaml"
    assert load_localise(file).extend.num_new > 0
    with pytest.raises(ConfigError, match="num_new"):
        load_localise(file, ["extend.num_ne=3"])
    with pytest.raises(ConfigError, match="localise-tiny.yaml.*bananas"):
        load_localise(file, ["budget=3 bananas"])
    with pytest.raises(ConfigError, match="countdwn"):
        load_localise(file, ["evaluate.tasks=[countdwn]"])
