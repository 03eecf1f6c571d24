"""Divided weights and experts: same losses, and checkpoints that any number of processes reads."""

from __future__ import annotations

import jobs
import pytest
from jobs import SOLO
from test_training import MUON, assert_close, assert_same_run, rollouts

from doran.base.errors import ArtifactError
from doran.train import checkpoint

FSDP, EXPERTS = {"data": "fsdp"}, {"experts": "shard"}
WAYS = pytest.mark.parametrize("parallel", [FSDP, EXPERTS, FSDP | EXPERTS], ids=["fsdp", "experts", "both"])


@WAYS
def test_five_pretraining_steps(pair, tmp_path, parallel: dict) -> None:
    changes = {"accumulate": 2, "grad_clip": 0.5}
    jobs.pretrain(SOLO, tmp_path / "one", **changes)
    again = {"activation_checkpointing": len(parallel) == 2}  # weights and tokens then travel twice
    pair("same_job", "pretrain", str(tmp_path / "two"), changes | again | {"parallel": parallel})
    columns = ("loss", "grad_norm", "balance_loss", "max_violation")
    assert_same_run(tmp_path / "one", tmp_path / "two", *columns)
    assert_close(tmp_path / "one", tmp_path / "two")


def test_mtp_learns_with_divided_weights(pair, tmp_path) -> None:
    changes = {"mtp": True, "router_bias_gamma": 0.0, "balance_alpha": 0.0, "steps": 3}
    jobs.pretrain(SOLO, tmp_path / "one", **changes)
    pair("same_job", "pretrain", str(tmp_path / "two"), changes | {"parallel": FSDP | EXPERTS})
    assert_same_run(tmp_path / "one", tmp_path / "two", "loss", "mtp_loss", "grad_norm")


def test_muon_gathers_what_it_turns(pair, tmp_path) -> None:
    changes = {"optimizer": "muon"}
    jobs.pretrain(SOLO, tmp_path / "one", **changes)
    pair("same_job", "pretrain", str(tmp_path / "two"), changes | {"parallel": FSDP | EXPERTS})
    assert_same_run(tmp_path / "one", tmp_path / "two", "loss", "grad_norm", within=MUON)
    assert_close(tmp_path / "one", tmp_path / "two", atol=4e-3)


def test_two_grpo_steps(pair, tmp_path) -> None:
    changes = {"beta": 0.04, "minibatches": 2}
    jobs.grpo(SOLO, tmp_path / "one", **changes)
    pair("same_job", "grpo", str(tmp_path / "two"), changes | {"parallel": FSDP | EXPERTS})
    one, two = rollouts(tmp_path / "one"), rollouts(tmp_path / "two")
    assert [r["completion"] for r in one] == [r["completion"] for r in two]
    assert_same_run(tmp_path / "one", tmp_path / "two", "loss", "grad_norm", "entropy", "kl", "gap/max")
    assert_close(tmp_path / "one", tmp_path / "two")


def test_checkpoints_go_from_two_to_one_to_two(pair, tmp_path) -> None:
    out, cadence = tmp_path / "run", {"steps": 6, "checkpoint_every_steps": 2}
    jobs.pretrain(SOLO, tmp_path / "one", **cadence)
    pair("stopped_after", "pretrain", str(out), 2, cadence | {"parallel": FSDP | EXPERTS})
    assert checkpoint.steps(out / "checkpoints") == [2]
    assert len(list((out / "checkpoints" / "step_00000002").glob("*.safetensors"))) == 2
    jobs.stopped_after(SOLO, "pretrain", str(out), 4, cadence)
    assert (out / "checkpoints" / "step_00000004" / "tensors.safetensors").exists()
    pair("same_job", "pretrain", str(out), cadence | {"parallel": FSDP | EXPERTS})
    assert_same_run(tmp_path / "one", out, "loss", "grad_norm")
    assert_close(tmp_path / "one", out)


def test_a_damaged_part_is_noticed(pair, tmp_path) -> None:
    out = tmp_path / "run"
    pair("stopped_after", "pretrain", str(out), 2, {"checkpoint_every_steps": 2, "parallel": FSDP})
    file = sorted((out / "checkpoints" / "step_00000002").glob("*.safetensors"))[1]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{file.name} is not what was written"):
        checkpoint.load(file.parent)


def test_what_cannot_be_divided_is_refused(pair) -> None:
    for said in pair("refusals"):
        assert said == [
            "LoRA and divided weights do not go together",
            "adamw8bit and divided weights do not go together",
            "parallel.experts: 7 experts for 2 processes",
        ]
