"""SFT: masks, epochs, plans, and learning."""

from __future__ import annotations

import pytest
import torch

from doran.base.batches import by_tokens
from doran.base.config import build as build_settings
from doran.base.errors import ConfigError, DataError
from doran.base.runlog import read_metrics
from doran.layers.attention import PackedAttend
from doran.layers.lora import add_lora
from doran.layers.moe import RouterStats
from doran.models.weights import load_model
from doran.train.batch import pack
from doran.train.loop import module_tensors
from doran.train.losses import IGNORE
from doran.train.pretrain import lm_loss
from doran.train.sft import SftSettings, batch_plan, run_sft

SAMPLES = [([2, a, b, (a + b) % 16, 1], [False, False, False, True, True]) for a in range(8) for b in range(8)]


def settings(**changes: object) -> SftSettings:
    values = {
        "epochs": 2,
        "lr": 1e-2,
        "bf16": False,
        "tokens_per_batch": 64,
        "warmup_steps": 1,
        "checkpoint_every_steps": 3,
    }
    return build_settings(SftSettings, values | changes)


def test_pack_shifts_targets_and_honours_the_mask() -> None:
    p = pack([([5, 6, 7], [True, False, True]), ([8, 9], [False, True])])
    assert p.tokens_T.tolist() == [5, 6, 8] and p.targets_T.tolist() == [IGNORE, 7, 9]
    assert p.positions_T.tolist() == [0, 1, 0] and p.cu_seqlens.tolist() == [0, 2, 3]


def test_by_tokens_fills_budgets_longest_first() -> None:
    assert by_tokens([3, 9, 5, 1, 20], 10) == [[4], [1], [2, 0, 3]]


def test_every_sample_once_an_epoch_in_a_new_order() -> None:
    lengths = [4 + i % 3 for i in range(40)]
    plan = batch_plan(lengths, settings())
    half = len(plan) // 2
    first, second = (sorted(i for batch in part for i in batch) for part in (plan[:half], plan[half:]))
    assert first == second == list(range(40)) and set(map(frozenset, plan[:half])) != set(map(frozenset, plan[half:]))
    assert all(sum(lengths[i] for i in batch) <= 64 for batch in plan)
    assert plan == batch_plan(lengths, settings()) and plan != batch_plan(lengths, settings(seed=1))


def test_loss_is_the_mean_over_answer_tokens(make_model) -> None:
    model = make_model(num_nextn_predict_layers=0)
    batch = pack(SAMPLES[:6])
    _, parts = lm_loss(model, batch, RouterStats(), settings(balance_alpha=0.0), 12, 1)
    h = model(batch.tokens_T, batch.positions_T, PackedAttend(batch.cu_seqlens))
    plain = torch.nn.functional.cross_entropy(model.logits(h), batch.targets_T, ignore_index=IGNORE)
    torch.testing.assert_close(parts["loss"], plain.detach())


class Broken(list):
    """Samples that cannot be read to the end."""

    reads = 0

    def __getitem__(self, i: int):
        self.reads += 1
        if self.reads > 100:
            raise RuntimeError("power cut")
        return super().__getitem__(i)


def test_it_learns_and_resumes_to_the_same_bits(make_model, tmp_path) -> None:
    s = settings(epochs=4)
    whole = run_sft(make_model(), SAMPLES, s, tmp_path / "whole")
    losses = [r["loss"] for r in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert losses[-1] < 0.6 * losses[0]

    with pytest.raises(RuntimeError):
        run_sft(make_model(), Broken(SAMPLES), s, tmp_path / "broken")
    again = run_sft(make_model(), SAMPLES, s, tmp_path / "broken")
    a, b = (module_tensors(load_model(folder)) for folder in (whole, again))
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_an_adapters_run_that_was_cut_ends_with_the_same_bits(make_model, tmp_path) -> None:
    def adapted():
        model = make_model(model_type="qwen2")
        add_lora(model, 2, 4.0)
        return model

    def files(folder):
        return [(folder / name).read_bytes() for name in ("model.safetensors", "adapter/adapter_model.safetensors")]

    s = settings(epochs=4)
    whole = run_sft(adapted(), SAMPLES, s, tmp_path / "whole")
    with pytest.raises(RuntimeError):
        run_sft(adapted(), Broken(SAMPLES), s, tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoints").exists() and not (tmp_path / "cut" / "model").exists()
    assert files(run_sft(adapted(), SAMPLES, s, tmp_path / "cut")) == files(whole)


def test_other_samples_on_old_checkpoints_are_refused(make_model, tmp_path) -> None:
    run_sft(make_model(), SAMPLES, settings(epochs=1), tmp_path)
    with pytest.raises(ConfigError, match="samples: .* was started with"):
        run_sft(make_model(), SAMPLES[1:], settings(epochs=1), tmp_path)


def test_extra_files_arrive_with_the_model(make_model, tmp_path) -> None:
    folder = run_sft(
        make_model(), SAMPLES, settings(epochs=1), tmp_path, add_files=lambda f: (f / "tokenizer.json").write_text("{}")
    )
    assert (folder / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "no sample"),
        ([*SAMPLES[:2], ([1, 2, 3], [True])], "sample 3: 3 ids but 1"),
        ([([1, 2], [True, False])], "sample 1 has no token to learn"),
        ([(list(range(30)), [True] * 30)], "sample 1 has 30 tokens, max_length is 20"),
    ],
)
def test_unusable_samples_are_named(make_model, tmp_path, samples: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run_sft(make_model(), samples, settings(max_length=20), tmp_path)
