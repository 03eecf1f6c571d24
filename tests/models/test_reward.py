"""Reward models against transformers' own classifiers, both ways, and against reading one text at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from doran.arch.presets import tiny
from doran.base.errors import ArtifactError
from doran.models.families import build
from doran.models.reward import RewardModel, load_reward, save_reward
from doran.models.weights import save_model

TEXTS = [[3, 4, 5, 6, 7, 2], [9, 8, 2], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 2], [5, 2]]


def made(family: str, seed: int = 0) -> RewardModel:
    config = tiny(family, vocab_size=32, hidden_size=32, num_hidden_layers=2, initializer_range=0.3)
    return RewardModel.on(build(config, seed=seed), seed, pad_id=0)


def theirs(folder: Path, rows: list[list[int]]) -> torch.Tensor:
    """transformers' scores of a padded batch."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        return model(ids, attention_mask=mask).logits[:, 0]


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3", "deepseek_v3"])
def test_transformers_gives_the_same_scores_for_what_we_write(family: str, tmp_path: Path) -> None:
    model = made(family)
    save_reward(model, tmp_path)
    ours = torch.tensor(model.scores(TEXTS))
    assert ours.std() > 0.05
    torch.testing.assert_close(theirs(tmp_path, TEXTS), ours, rtol=1e-4, atol=1e-4)
    assert load_reward(tmp_path).scores(TEXTS) == model.scores(TEXTS)


def test_a_classifier_written_by_transformers_is_read(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2, pad_token_id=0,
                         num_attention_heads=4, num_key_value_heads=2, num_labels=1, initializer_range=0.3)  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    torch.testing.assert_close(
        torch.tensor(load_reward(tmp_path).scores(TEXTS)), theirs(tmp_path, TEXTS), rtol=1e-4, atol=1e-4
    )


def test_a_batch_gives_each_text_its_own_score() -> None:
    model = made("deepseek_v3")
    alone = [model.scores([ids])[0] for ids in TEXTS]
    assert model.scores(TEXTS, tokens_per_batch=8) == pytest.approx(alone, abs=1e-5)
    assert model.scores(TEXTS) == pytest.approx(alone, abs=1e-5) and model.scores([]) == []


def test_folders_of_another_kind_are_named(tmp_path: Path) -> None:
    save_model(build(tiny("qwen2", vocab_size=32, hidden_size=32, num_hidden_layers=2)), tmp_path / "lm")
    with pytest.raises(ArtifactError, match="is no reward model"):
        load_reward(tmp_path / "lm")
    two = made("qwen2")
    two.score = torch.nn.Linear(32, 2, bias=False)
    save_reward(two, tmp_path / "two")
    with pytest.raises(ArtifactError, match=r"score.weight is \[2, 32\]"):
        load_reward(tmp_path / "two")
