"""`doran rollouts` and `doran doctor --run`: what they list, show and print for scripts, and one line for a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doran.cli import app


def row(step: int, group: int, reward: float, **more: object) -> dict:
    return {
        "step": step, "group": group, "prompt": f"question {group}", "completion": f"<think>a\x1b[31m</think>{reward}",
        "finish_reason": "stop", "length": 10 * group + step, "reward": reward, "rewards": {"accuracy": reward},
        "advantage": reward - 0.5, "age": 0, "fault": None, "logprobs": [-0.5, -1.5], "own": None, **more,
    }  # fmt: skip


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """Two steps of two groups of two; the last completion could not be judged."""
    folder = tmp_path / "rl"
    (folder / "rollouts").mkdir(parents=True)
    for step in (1, 2):
        rows = [row(step, g, float(k and g)) for g in (0, 1) for k in (0, 1)]
        if step == 2:
            rows[-1]["fault"] = "reward 'accuracy': ValueError: no parser"
        text = "".join(json.dumps(r) + "\n" for r in rows)
        (folder / "rollouts" / f"step_{step:08d}.jsonl").write_text(text, encoding="utf-8")
    return folder


def ask(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = app.run(["rollouts", *map(str, args)])
    return code, *capsys.readouterr()


def test_steps_are_listed(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ask(capsys, stage)
    lines = out.splitlines()
    assert code == 0 and lines[0].split()[:3] == ["step", "completions", "reward"]
    assert lines[1].split() == ["1", "4", "0.250", "0.00", "1.00", "50%", "6", "0%", "0"] and lines[2].endswith("1")
    steps = json.loads(ask(capsys, stage, "--json")[1])["steps"]
    assert [s["step"] for s in steps] == [1, 2] and steps[1]["faults"] == 1


def test_a_step_lists_its_groups(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ask(capsys, stage, "--step", 2)
    assert len(out.splitlines()) == 3 and "question 1" in out
    groups = json.loads(ask(capsys, stage, "--step", 2, "--json")[1])["groups"]
    assert [g["reward"] for g in groups] == [0.0, 0.5]


def test_best_worst_longest_and_filters(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def names(*args: object) -> list[str]:
        return [r["name"] for r in json.loads(ask(capsys, stage, *args, "--json")[1])["rollouts"]]

    assert names("--best", 2) == ["1/1/1", "2/1/1"]
    assert names("--worst", 1, "--step", 2) == ["2/0/0"]
    assert names("--longest", 1) == ["2/1/0"]
    assert names("--min-reward", 0.5) == ["1/1/1", "2/1/1"] and len(names("--max-reward", 0.5)) == 6
    assert names("--faults") == ["2/1/1"]
    assert "no parser" in ask(capsys, stage, "--faults")[1]


def test_one_group_in_full_with_advantages_and_no_control_characters(
    stage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = ask(capsys, stage, "--show", "2/1")
    assert "2/1/0: reward 0 (accuracy 0), advantage -0.500" in out and "2/1/1: reward 1" in out
    assert "not judged: reward 'accuracy'" in out and "logprobs: mean -1.000, lowest -1.500" in out
    assert "\x1b" not in out and "question 1" in out
    assert ask(capsys, stage, "--show", "2/1/1")[1].count("===") == 1


def test_samples_stand_in_where_nothing_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run" / "stages" / "03-zero"
    folder.mkdir(parents=True)
    text = json.dumps({k: v for k, v in row(1, 0, 1.0).items() if k in (
        "step", "prompt", "completion", "finish_reason", "length", "reward", "rewards", "advantage")})  # fmt: skip
    (folder / "samples.jsonl").write_text(text + "\n", encoding="utf-8")
    code, out, err = ask(capsys, tmp_path / "run", "--best", 1)
    assert code == 0 and "1/0/0" in out and "nothing was recorded" in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--show", "x"], "STEP/GROUP"),
        (["--show", "1/9"], "no such completion"),
        (["--step", "9"], "recorded: 1 to 2"),
        (["--best", "1", "--worst", "1"], "exclude one another"),
        (["--stage", "zero"], "no RL stage"),
    ],
)
def test_a_mistake_is_one_line(stage: Path, args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ask(capsys, stage, *args)
    assert code == 2 and words in err and "Traceback" not in err


def test_a_folder_without_rollouts_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, tmp_path)[0] == 1 and ask(capsys, tmp_path / "none")[0] == 1


def test_doctor_says_what_is_wrong_with_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = tmp_path / "stages" / "05-rl"
    stage.mkdir(parents=True)
    rows = [{"step": i, "frac_reward_zero_std": 1.0, "reward": 0.0, "completions/clipped_ratio": 0.0} for i in range(6)]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    past = {"step": 2, "alarm": "truncation", "seen": "40% cut off", "mend": "raise max_new_tokens"}
    (stage / "alarms.jsonl").write_text(json.dumps(past) + "\n", encoding="utf-8")
    assert app.run(["doctor", "--run", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "05-rl: all_wrong" in out and "easier questions first" in out and "over since: 40% cut off" in out
    assert app.run(["doctor", "--run", str(stage), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is False
    assert app.run(["doctor", "--run", str(tmp_path / "nothing")]) == 1
