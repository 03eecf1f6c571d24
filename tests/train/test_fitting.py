"""Too little memory is told before step 1, names what would fit, and trying it first changes no bit."""

from __future__ import annotations

import pytest
import torch
from grpo_kit import run as run_rl

from doran.arch.presets import tiny
from doran.base.config import build as build_settings
from doran.base.errors import OutOfMemory
from doran.train import fitting
from doran.train.fitting import forecast, memory_told, what_fits
from doran.train.grpo_settings import GrpoSettings
from doran.train.rehearsal import largest
from doran.train.sft import SftSettings, batch_plan, run_sft

WIDE = tiny("qwen2", hidden_size=512, intermediate_size=2048, num_hidden_layers=12, vocab_size=4096)
SFT = build_settings(SftSettings, {"tokens_per_batch": 16384})


class Said:
    """A progress that remembers its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.total_steps: int | None = None

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, step: int, **shown: object) -> None:
        pass

    def out_of_budget(self) -> None:
        return None


def test_each_setting_lowers_the_forecast() -> None:
    plain = forecast(WIDE, SFT)
    assert forecast(WIDE, SFT, activation_checkpointing=True).activations < 0.4 * plain.activations
    assert forecast(WIDE, SFT, optimizer="adamw8bit").optimizer < 0.3 * plain.optimizer
    assert forecast(WIDE, SFT, tokens_per_batch=8192).activations < 0.6 * plain.activations
    adapter = forecast(WIDE, SFT, trained=0.01)
    assert adapter.weights == plain.weights and adapter.gradients < 0.02 * plain.gradients
    rl = build_settings(GrpoSettings, {"beta": 0.1})
    assert forecast(WIDE, rl).reference > 0 == forecast(WIDE, build_settings(GrpoSettings, {})).reference


def test_the_least_change_that_fits_is_named() -> None:
    peak = forecast(WIDE, SFT).peak
    assert what_fits(WIDE, SFT, peak) == {}
    again = forecast(WIDE, SFT, activation_checkpointing=True).peak
    assert what_fits(WIDE, SFT, again) == {"activation_checkpointing": True}
    found = what_fits(WIDE, SFT, again - 1)
    assert found == {"tokens_per_batch": 8192, "activation_checkpointing": True}
    least = forecast(WIDE, SFT, activation_checkpointing=True, optimizer="adamw8bit", tokens_per_batch=256).peak
    found = what_fits(WIDE, SFT, least)
    assert found is not None and found["optimizer"] == "adamw8bit" and found["tokens_per_batch"] == 256
    assert what_fits(WIDE, SFT, least - 1) is None
    assert "--lora-rank" in fitting.mend(WIDE, SFT, least - 1)


def test_a_forecast_that_does_not_fit_is_said_and_training_goes_on(make_model, monkeypatch) -> None:
    model, said = make_model(), Said()
    room = forecast(model.config, SFT).peak - fitting.held() - 2**20
    monkeypatch.setattr(fitting, "available_memory", lambda: room)
    with memory_told(model, SFT, said):
        pass
    assert len(said.notes) == 1 and "would fit" in said.notes[0] and "train." in said.notes[0]
    monkeypatch.setattr(fitting, "available_memory", lambda: 2**50)
    with memory_told(model, SFT, said):
        pass
    assert len(said.notes) == 1


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_an_allocation_that_fails_names_what_would_fit(make_model, error) -> None:
    with pytest.raises(OutOfMemory, match="a step needs about .* GB.*train.activation_checkpointing=true"):
        with memory_told(make_model(), SFT, None):
            raise error
    with pytest.raises(RuntimeError, match="shape"), memory_told(make_model(), SFT, None):
        raise RuntimeError("shape mismatch")


def weights(out) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def test_a_rehearsal_is_of_the_largest_batch_and_changes_no_bit(make_model, tmp_path, monkeypatch) -> None:
    samples = [([5, *range(2 + i % 9), 7], [False] + [True] * (3 + i % 9)) for i in range(20)]
    lengths = [len(ids) - 1 for ids, _ in samples]
    s = build_settings(SftSettings, {"tokens_per_batch": 24, "epochs": 1, "warmup_steps": 0})
    plan = batch_plan(lengths, s)
    assert sum(lengths[i] for i in largest(plan, lengths)) == max(sum(lengths[i] for i in batch) for batch in plan)
    for name, on in (("without", False), ("with", True)):
        run_sft(make_model(), samples, s.model_copy(update={"rehearse": on}), tmp_path / f"sft-{name}")
        run_rl(make_model(), tmp_path / f"rl-{name}", steps=2, rehearse=on)
    assert weights(tmp_path / "sft-without") == weights(tmp_path / "sft-with")
    assert weights(tmp_path / "rl-without") == weights(tmp_path / "rl-with")


def test_a_rehearsal_that_fails_ends_the_run_before_its_first_step(make_model, tmp_path, monkeypatch) -> None:
    def full(*args: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch.Tensor, "backward", full)
    with pytest.raises(OutOfMemory):
        run_rl(make_model(), tmp_path, steps=2, rehearse=True)
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "samples.jsonl").read_text()
