"""The whole route on recipes/smoke.yaml, as a user starts it: artifacts, a second start, and kill -9 in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from doran.base.files import sha256_file
from doran.base.runlog import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGES = (
    "01-tokenizer", "02-base", "03-zero", "04-cold-start", "05-rl", "06-reject", "07-rl-all", "08-student-base",
    "09-distill", "10-student-rl", "11-evaluate",
)  # fmt: skip
TRAINED = STAGES[1:10]
FINAL = "stages/07-rl-all/model/model.safetensors"


def start(root: Path, runs: Path) -> subprocess.Popen[str]:
    """`doran run recipes/smoke.yaml`, in a process of its own."""
    command = [sys.executable, "-m", "doran.cli", "run", str(root / "recipes" / "smoke.yaml"), "--runs-dir", str(runs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


def wait_for(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """Return as soon as `reached()`; fail where the process ends before that."""
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def steps(stage: Path) -> int:
    """Steps that a stage has logged."""
    return len(read_metrics(stage / "metrics.jsonl"))


@pytest.fixture(scope="module")
def runs(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of one finished smoke run."""
    folder = tmp_path_factory.mktemp("runs")
    out, err = (process := start(repo_root, folder)).communicate()
    assert process.returncode == 0, err
    assert out.strip() == str(folder / "smoke")
    return folder


def test_every_stage_leaves_its_artifacts(runs: Path) -> None:
    assert sorted(path.name for path in (runs / "smoke" / "stages").iterdir()) == list(STAGES)
    assert (runs / "latest").resolve() == (runs / "smoke").resolve() and (runs / "smoke" / "recipe.yaml").is_file()
    for name in STAGES:
        stage = runs / "smoke" / "stages" / name
        assert (stage / "done.json").is_file()
        assert json.loads((stage / "receipt.json").read_text(encoding="utf-8"))["seconds"] >= 0
    for name in TRAINED:
        stage = runs / "smoke" / "stages" / name
        receipt = json.loads((stage / "receipt.json").read_text(encoding="utf-8"))
        weights = stage / "model" / "model.safetensors"
        assert receipt["weights_sha256"] == {weights.name: sha256_file(weights)} and receipt["tokens"] > 0
        assert (stage / "metrics.jsonl").stat().st_size > 0


@pytest.mark.parametrize("stage", ["03-zero", "07-rl-all", "09-distill"])
def test_models_load_in_transformers_with_their_tokenizer(runs: Path, stage: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = runs / "smoke" / "stages" / stage / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "3 + 4"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert torch.isfinite(model(**chat).logits).all()


def test_the_report_is_one_well_formed_page(runs: Path) -> None:
    text = (runs / "smoke" / "report.html").read_text(encoding="utf-8")

    class Tags(HTMLParser):
        seen: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen.append(tag)
            assert not any(key in ("src", "href") and (value or "").startswith("http") for key, value in attrs)

    page = Tags()
    page.feed(text)
    assert {"h1", "table", "svg"} <= set(page.seen) and "R1-Zero" in text and "Countdown" in text
    numbers = json.loads((runs / "smoke" / "report.json").read_text(encoding="utf-8"))
    assert set(numbers["receipts"]) >= {"zero", "rl_all", "evaluate"}


def test_nothing_held_out_was_trained_on(runs: Path) -> None:
    """Questions of the evaluation never occur among the samples that a model learned from."""
    stages = runs / "smoke" / "stages"
    held_out = {
        item["prompt"]
        for file in (stages / "11-evaluate" / "results").glob("*/countdown.json")
        for item in json.loads(file.read_text(encoding="utf-8"))["items"]
    }
    learned = {
        json.loads(line)["messages"][0]["content"]
        for name in ("04-cold-start", "06-reject", "09-distill")
        for line in (stages / name / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    }
    asked = "\n".join((stages / name / "samples.jsonl").read_text(encoding="utf-8") for name in ("03-zero", "05-rl"))
    assert held_out and learned and not held_out & learned
    assert not any(json.dumps(prompt, ensure_ascii=False)[1:-1] in asked for prompt in held_out)


def test_a_second_start_does_nothing_and_says_so(runs: Path, repo_root: Path) -> None:
    def when() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in (runs / "smoke" / "stages").rglob("*") if path.is_file()}

    before = when()
    out, err = (process := start(repo_root, runs)).communicate()
    assert process.returncode == 0 and "nothing to do" in err and out.strip() == str(runs / "smoke")
    assert when() == before


def test_stopped_by_ctrl_c_and_killed_twice_it_ends_with_the_same_weights(
    runs: Path, repo_root: Path, tmp_path: Path
) -> None:
    """A run that has its base model is interrupted and killed within GRPO, then killed within a fine-tuning stage."""
    run = tmp_path / "smoke"
    for name in STAGES[:2]:
        shutil.copytree(runs / "smoke" / "stages" / name, run / "stages" / name)
    stages = run / "stages"
    for reached, stop in (
        (lambda: steps(stages / "03-zero") >= 1, signal.SIGINT),
        (lambda: steps(stages / "03-zero") >= 3, signal.SIGKILL),
        (lambda: steps(stages / "04-cold-start") >= 5, signal.SIGKILL),
    ):
        process = start(repo_root, tmp_path)
        wait_for(process, reached)
        process.send_signal(stop)
        out, err = process.communicate()
        assert out == "" and not (run / FINAL).exists()
        if stop is signal.SIGINT:
            assert process.returncode == 130 and "run the same command" in err and "Traceback" not in err
            assert any((stages / "03-zero" / "checkpoints").glob("step_*"))
    process = start(repo_root, tmp_path)
    wait_for(process, (stages / "07-rl-all" / "done.json").exists)
    process.terminate()  # the student's stages are not looked at
    process.communicate()
    for name in ("03-zero", "04-cold-start", "05-rl", "06-reject", "07-rl-all"):
        weights = f"stages/{name}/model/model.safetensors"
        assert sha256_file(run / weights) == sha256_file(runs / "smoke" / weights), name
