"""`doran plan` from the command line: quick, without torch, one line for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from doran.cli import app


def run(capsys, *args):
    code = app.run(["plan", *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_planning_never_imports_torch():
    code = (
        "import sys; from doran.cli import app; app.run(['plan', 'qwen2.5-7b', '--tokens', '1M', '--budget', '5 USD'])"
        "; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("job", ["pretrain", "sft", "grpo", "distill"])
def test_each_job_gives_time_memory_and_money(capsys, job):
    code, out, _ = run(
        capsys, "qwen2.5-7b", "--job", job, "--on", "h100", "--length", "2048", "--precision", "fp8", "--json"
    )
    found = json.loads(out)
    assert code == 0 and found["usd"] > 0 and found["krw"] > found["usd"] and found["kwh"] > 0
    assert found["peak_memory_bytes"] <= 80 * 2**30 and found["limit"]


def test_serving_gives_users_and_the_price_of_a_million_tokens(capsys):
    code, out, _ = run(capsys, "qwen2.5-7b", "--job", "serve", "--on", "rtx4090", "--speed", "20", "--json")
    found = json.loads(out)
    assert code == 0 and found["users"] > 0 and 0 < found["usd_per_million_output"] < 10


def test_a_budget_alone_says_what_it_buys(capsys):
    code, out, _ = run(capsys, "--budget", "500,000 KRW")
    assert code == 0 and "qwen2.5-0.5b" in out and "SFT traces" in out


def test_a_recipe_is_planned_stage_by_stage(capsys, repo_root):
    code, out, _ = run(capsys, str(repo_root / "recipes" / "smoke.yaml"), "zero.train.steps=7", "--on", "cpu-2core")
    assert code == 0 and "student_rl" in out and "cost" in out


def test_the_recipe_readers_defaults_are_the_settings_own():
    from doran.plan.recipe_file import DEFAULTS
    from doran.train.grpo import GrpoSettings
    from doran.train.pretrain import PretrainSettings
    from doran.train.sft import SftSettings

    for kind, settings in (("pretrain", PretrainSettings), ("sft", SftSettings), ("rl", GrpoSettings)):
        real = {key: settings.model_fields[key].default for key in DEFAULTS[kind]}
        assert real == DEFAULTS[kind]


def test_a_timeline_is_drawn(capsys, tmp_path):
    file = tmp_path / "step.svg"
    layout = "pp=4,dp=2,schedule=dualpipe"
    code, _, _ = run(capsys, "qwen2.5-7b", "--layout", layout, "--timeline", str(file))
    assert code == 0 and file.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "nothing to plan"),
        (("qwen2.5-7b", "--on", "h999"), "unknown hardware"),
        (("qwen2.5-7",), "no model"),
        (("qwen2.5-7b", "--budget", "-5 KRW"), "not above zero"),
        (("qwen2.5-7b", "--tokens", "0"), "not an amount"),
        (("qwen2.5-7b", "--job", "sftt"), "no such job"),
        (("qwen2.5-72b", "--devices", "1"), "fits on no layout"),
        (("qwen2.5-7b", "--precision", "int3"), "precision"),
        (("missing.yaml",), "no such file"),
    ],
)
def test_mistakes_are_one_line_with_a_hint(capsys, args, words):
    code, out, err = run(capsys, *args)
    assert code == 2 and words in err and "hint:" in err and not out


def test_the_measured_machine_is_kept_and_planned_with(capsys, tmp_path, monkeypatch, repo_root):
    from doran.cli import doctor
    from doran.plan.profiles import save_profile

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    measured = doctor.measured_profile()
    assert measured.disk_bandwidth > 1e6 and not list(tmp_path.iterdir())
    assert measured.memory_bandwidth > 1e8 and 0 < measured.op_seconds < 1e-2 and measured.peak("bfloat16") > 1e8
    save_profile(measured)
    code, out, _ = run(capsys, str(repo_root / "recipes" / "smoke.yaml"))
    assert code == 0 and measured.name in out
