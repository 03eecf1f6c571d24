"""lm-evaluation-harness against `doran serve`: the same questions get the same verdicts as from `doran eval`.

It runs where `lm_eval` can be imported, or where DORAN_LM_EVAL names the command (it needs an environment of its own).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doran.cli import app

SAID = "<think>three and four</think>7"


def harness() -> list[str]:
    """The command; the test is skipped without it."""
    if command := os.environ.get("DORAN_LM_EVAL"):
        return [command]
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm_eval is not installed: pip install 'lm-eval[api]', or set DORAN_LM_EVAL to its command")
    return [sys.executable, "-m", "lm_eval"]


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def served(foreign_qwen2: Path, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A model that has learned to say 7, and the address where it is served."""
    pytest.importorskip("fastapi")
    harness()
    learn = write_rows(tmp_path / "learn.jsonl", [{"prompt": f"What is {i + 7} - {i}?", "completion": SAID}
                                                  for i in range(20)])  # fmt: skip
    settings = [f"train.{key}" for key in ("epochs=40", "lr=0.01", "warmup_steps=0", "weight_decay=0.0", "bf16=false")]
    out = tmp_path / "sft"
    args = ["sft", "--model", str(foreign_qwen2), "--data", str(learn), "--out", str(out), *settings]
    assert app.run(args) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    serve = ["serve", "--model", str(out / "model"), "--name", "seven", "--port", port]
    log = (tmp_path / "serve.log").open("w")
    server = subprocess.Popen([sys.executable, "-m", "doran.cli", *serve], stdout=log, stderr=log)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1):
                break
            time.sleep(0.2)
        yield out / "model", f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def test_the_harness_and_doran_give_the_same_verdicts(
    served: tuple[Path, str], repo_root: Path, tmp_path: Path
) -> None:
    model, url = served
    rows = [{"prompt": f"What is {i + 7} - {i}?", "answer": "7" if i % 3 else "8"} for i in range(12)]
    file = write_rows(tmp_path / "examples" / "lm-eval" / "questions.jsonl", rows)
    shutil.copy(repo_root / "examples" / "lm-eval" / "doran_sums.yaml", file.parent)
    asked = ["--task", "jsonl", "--data", str(file), "task.all_rows=true", "--n", "12", "--k", "1"]
    asked += ["--temperature", "0", "--max-new-tokens", "40"]
    verdicts = {}
    sources = {"model": ["--model", str(model)], "endpoint": ["--endpoint", url, "--served-model", "seven"]}
    for name, source in sources.items():
        out = tmp_path / f"{name}.json"
        assert app.run(["eval", *source, *asked, "--out", str(out)]) == 0
        items = json.loads(out.read_text(encoding="utf-8"))["items"]
        verdicts[name] = {item["prompt"]: item["outcomes"][0]["correct"] for item in items}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path), "OPENAI_API_KEY": "none"}
    where = f"model=seven,base_url={url}/v1/chat/completions,num_concurrent=4"
    subprocess.run(
        [*harness(), "--model", "local-chat-completions", "--model_args", where, "--apply_chat_template",
         "--include_path", "examples/lm-eval", "--tasks", "doran_sums", "--gen_kwargs", "max_gen_toks=40",
         "--output_path", "found", "--log_samples"],
        cwd=tmp_path, env={**os.environ, **offline}, check=True, timeout=540,
    )  # fmt: skip
    (samples,) = (tmp_path / "found").rglob("samples_*.jsonl")
    found = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    verdicts["lm_eval"] = {sample["doc"]["prompt"]: bool(sample["exact_match"]) for sample in found}
    assert verdicts["model"] == verdicts["endpoint"] == verdicts["lm_eval"]
    assert set(verdicts["lm_eval"].values()) == {True, False}
