"""`doran distill` by every method: a teacher's folder or a server, what is refused, and kill -9."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from doran.base.files import read_json, sha256_file
from doran.base.runlog import read_metrics
from doran.cli import app
from stub_server import server

SAID = "<think>three and four</think>7"
LEARN = ("train.lr=0.01", "train.warmup_steps=0", "train.weight_decay=0.0", "train.bf16=false", "--threads", 1)


@pytest.fixture(autouse=True)
def no_saved_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = app.run([str(arg) for arg in args])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions that all have the answer 7."""
    file = tmp_path_factory.mktemp("questions") / "sevens.jsonl"
    rows = [{"prompt": f"What is {i + 7} - {i}?", "answer": "7"} for i in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def teacher(foreign_qwen2: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has learned one reply by heart."""
    out = tmp_path_factory.mktemp("teacher")
    rows = [json.loads(line) | {"completion": SAID} for line in questions.read_text(encoding="utf-8").splitlines()]
    data = out / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    args = ["sft", "--model", foreign_qwen2, "--data", data, "--out", out / "run", "train.epochs=40", *LEARN]
    assert app.run([str(arg) for arg in args]) == 0
    return out / "run" / "model"


def spoken(code: int, text: str) -> tuple[int, dict[str, Any]]:
    """A chat completion that says `text`, its thought apart."""
    message = {"role": "assistant", "content": text.rpartition("</think>")[2],
               "reasoning_content": text.partition("</think>")[0].removeprefix("<think>")}  # fmt: skip
    usage = {"prompt_tokens": 1000, "completion_tokens": 3000}
    return code, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


def command(teacher: object, student: Path, questions: Path, out: Path, *more: object) -> list[object]:
    return ["distill", "--teacher", teacher, "--model", student, "--task", "jsonl", "--data", questions, "--out", out,
            *LEARN, *more]  # fmt: skip


def test_topk_learns_the_teachers_probabilities(
    teacher: Path, foreign_qwen2: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    args = command(teacher, foreign_qwen2, questions, out, "--method", "topk", "--questions", 8, "--samples", 1,
                   "--top-k", 5, "sampling.max_new_tokens=40", "train.epochs=30")  # fmt: skip
    code, said, err = run(capsys, *args)
    assert code == 0 and said.strip() == str(out / "model"), err
    rows = read_metrics(out / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.2 * rows[0]["loss"]
    receipt = read_json(out / "receipt.json")
    assert receipt["stage"] == "distill" and {"model", "teacher", "data"} <= receipt["inputs_sha256"].keys()
    code, _, err = run(capsys, *args)
    assert code == 0 and "nothing to do" in err
    assert run(capsys, *args, "--method", "sft")[0] == 2  # that folder is topk's


def test_on_policy_comes_near_the_teacher_on_the_students_own_words(
    teacher: Path, foreign_qwen2: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, said, err = run(
        capsys, *command(teacher, foreign_qwen2, questions, out, "--method", "on-policy"), "train.steps=20",
        "train.max_new_tokens=8", "train.prompts_per_step=4",
    )  # fmt: skip
    assert code == 0 and said.strip() == str(out / "model"), err
    kls = [row["reverse_kl"] for row in read_metrics(out / "metrics.jsonl")]
    assert sum(kls[-4:]) < 0.8 * sum(kls[:4]) and read_json(out / "receipt.json")["steps"] == 20


@pytest.mark.parametrize("method", ["topk", "on-policy"])
def test_kill_9_ends_with_the_same_weights(
    method: str, teacher: Path, foreign_qwen2: Path, questions: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    few = {"topk": ("--questions", 4, "--samples", 1, "sampling.max_new_tokens=40", "train.epochs=6",
                    "train.tokens_per_batch=128"),
           "on-policy": ("train.steps=6", "train.max_new_tokens=6", "train.prompts_per_step=2")}[method]  # fmt: skip

    def args(name: str) -> list[str]:
        whole = command(teacher, foreign_qwen2, questions, tmp_path / name, "--method", method, *few)
        return [str(arg) for arg in [*whole, "train.checkpoint_every_steps=2"]]

    assert app.run(args("whole")) == 0
    child = os.fork()
    if child == 0:  # its fourth update is its death
        from doran.train import distill

        update, done = distill._update, []

        def dying(*given: Any) -> Any:
            done.append(1)
            if len(done) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return update(*given)

        distill._update = dying
        os._exit(app.run(args("killed")) or 99)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists()
    assert app.run(args("killed")) == 0
    weights = [sha256_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_a_server_teaches_dies_and_is_not_asked_twice(
    foreign_qwen2: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from doran.evals import endpoint

    monkeypatch.setattr(endpoint, "RETRIES", 0)
    monkeypatch.setenv("TEACHERS_KEY", "secret")
    out = tmp_path / "out"

    def asked(url: str) -> tuple[int, str, str]:
        return run(capsys, *command(url, foreign_qwen2, questions, out, "--teacher-model", "big", "--teacher-key",
                                    "TEACHERS_KEY", "--parallel", 2, "--usd-per-mtok", "0.5,2", "--questions", 6,
                                    "--samples", 2, "train.epochs=1"))  # fmt: skip

    down = [True]
    with server(lambda body, n: spoken(500, "") if down[0] and n > 5 else spoken(200, SAID)) as (url, seen):
        code, _, err = asked(url)
        assert code == 1 and "5 of 12 replies came before that" in err and "refused with 500" in err
        assert not (out / "samples.jsonl").exists() and seen[0][1]["model"] == "big"
        assert read_json(out / "seconds.json")["bought_usd"] == pytest.approx(5 * 0.0065)
        down[0] = False
        paid = len([row for row in (out / "replies.jsonl").read_text().splitlines() if row])
        before = len(seen)
        code, _, err = asked(url)
        assert code == 0 and paid == 5 and len(seen) - before == 7, err
    assert "kept 6 of 12 samples" in err
    receipt = read_json(out / "receipt.json")
    assert receipt["teacher"] == {
        "model": "big", "replies": 12, "prompt_tokens": 12_000, "tokens": 36_000, "usd": pytest.approx(12 * 0.0065)
    }  # fmt: skip
    assert receipt["money"]["usd"] == pytest.approx(12 * 0.0065, abs=1e-3)
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(row["messages"][1]["content"] == SAID for row in rows)


def test_dorans_own_server_is_a_teacher(
    teacher: Path, foreign_qwen2: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    from doran.cli.loading import open_model
    from doran.engine.engine import Engine
    from doran.serve.app import create_app
    from doran.serve.generation import Service
    from doran.serve.settings import ServeSettings

    opened = open_model(teacher)
    service = Service(Engine(opened.model), opened.tokenizer, opened.stop_ids, ServeSettings(name="big"))
    config = uvicorn.Config(create_app(service), host="127.0.0.1", port=0, log_level="warning", access_log=False)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.05)
    url = f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}/v1"
    out = tmp_path / "out"
    try:
        code, _, err = run(
            capsys, *command(url, foreign_qwen2, questions, out, "--teacher-model", "big", "--questions", 4,
                             "--samples", 1, "sampling.max_new_tokens=40", "train.epochs=1"),
        )  # fmt: skip
    finally:
        running.should_exit = True
        thread.join()
    assert code == 0 and "no price for big" in err and "kept 4 of 4 samples" in err, err
    row = json.loads((out / "samples.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert row["messages"][1]["content"] == SAID
    assert read_json(out / "receipt.json")["teacher"]["usd"] is None


def test_what_cannot_be_is_told_before_anything_is_written(
    teacher: Path, tiny_model: Path, foreign_qwen2: Path, questions: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    url, named = "http://127.0.0.1:9", ("--teacher-model", "big")
    for given, more, words in [
        (teacher, ("--method", "topkk"), "did you mean topk?"),
        (tiny_model, ("--method", "topk"), "different vocabularies"),
        (tiny_model, ("--method", "on-policy"), "use --method sft"),
        (url, (*named, "--method", "topk"), "a server gives text"),
        (url, (), "which model?"),
        (url, (*named, "--usd-per-mtok", "1"), "no two prices"),
        (url, (*named, "--budget", "3 USD"), "no price for big"),
        (url, (*named, "--teacher-key", "NOT_SET"), "this variable is not set"),
        (teacher, named, "is for a server"),
        (teacher, ("--method", "on-policy", "sampling.keep=2"), "the student samples"),
        (teacher, ("--method", "on-policy", "train.epochs=2"), "unknown key"),
    ]:
        code, said, err = run(capsys, *command(given, foreign_qwen2, questions, out, *more))
        assert code == 2 and words in err and said == "" and not out.exists(), (given, more, err)
