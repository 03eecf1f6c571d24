"""`doran eval`: one JSON object that scripts can rely on, a table for people, and one clear line for a mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from doran.cli import app

QUICK = ("--n", "4", "--k", "2", "--max-new-tokens", "8", "--temperature", "1")


def evaluated(capsys: pytest.CaptureFixture[str], model: Path, *args: str) -> dict[str, Any]:
    code = app.run(["eval", "--model", str(model), "--json", *QUICK, *args])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(1, 31)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize("family", ["foreign_qwen2", "foreign_deepseek"])
def test_a_foreign_folder_is_measured_on_real_gsm8k(
    family: str, shared_data: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(shared_data / "gsm8k" / "test.jsonl")
    record = evaluated(capsys, request.getfixturevalue(family), "--task", "gsm8k", "--data", data, "task.all_rows=true")
    assert (record["task"], record["n"], record["k"], record["style"]) == ("gsm8k", 4, 2, "chat")
    assert record["sampling"]["stop_token_ids"] == [2] and set(record["metrics"]) == {"all", "en"}
    pass_1 = record["metrics"]["all"]["pass@1"]
    assert pass_1["low"] <= pass_1["value"] <= pass_1["high"] and record["metrics"]["all"]["mean_length"]["value"] <= 8


def test_countdown_is_measured_in_both_languages_and_repeats(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("--task", "countdown", "task.max_number=9", "--style", "plain")
    record = evaluated(capsys, tiny_model, *args)
    assert set(record["metrics"]) == {"all", "en", "ko"} and record["style"] == "plain"
    assert {"pass@1", "pass@2", "cons@2", "mean_length", "truncated", "format"} <= set(record["metrics"]["all"])
    again = evaluated(capsys, tiny_model, *args)
    times = {"tokens_per_second", "seconds", "usd", "krw", "per_question", "per_correct"}
    assert times <= set(record["cost"]) and record["recipe_hash"]
    for both in (record, again):
        both["cost"] = {key: value for key, value in both["cost"].items() if key not in times}
    assert record == again


def test_people_get_a_table_and_a_file_with_every_verdict(
    tiny_model: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    args = ["--task", "jsonl", "--data", str(questions), "task.all_rows=true", "--out", str(out)]
    assert app.run(["eval", "--model", str(tiny_model), *QUICK, *args]) == 0
    shown = capsys.readouterr().out
    assert "4 test questions, 2 completions each" in shown and "\npass@1 " in shown
    assert len(json.loads(out.read_text(encoding="utf-8"))["items"]) == 4
    kept = (tmp_path / "result.samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(kept) == 5 and "recipe            " in shown


def test_two_results_are_compared_and_drawn_and_looked_up_in_training_files(
    tiny_model: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, page = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "page.html"
    args = ["--task", "jsonl", "--data", str(questions), "task.all_rows=true", "--trained-on", str(questions)]
    for out, more in ((a, ["--html", str(page)]), (b, ["--style", "plain"])):
        assert app.run(["eval", "--model", str(tiny_model), *QUICK, *args, "--out", str(out), *more]) == 0
    assert "4 of 4 questions stand in the training files" in capsys.readouterr().out
    assert "<svg" in page.read_text(encoding="utf-8") and "Length of replies" in page.read_text(encoding="utf-8")
    assert app.run(["eval", "compare", str(a), str(b), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["questions"] == 4 and 0 < found["p_value"] <= 1
    assert app.run(["eval", "compare", str(a), str(b)]) == 0
    assert "verdict" in capsys.readouterr().out
    assert app.run(["eval", "--model", str(tiny_model), *QUICK, *args, "--seed", "1", "--out", str(b)]) == 2
    assert "was begun with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--task", "countdwn"], 2, "did you mean countdown?"),
        (["--task", "gsm8k"], 2, "needs a file"),
        (["--task", "countdown", "--data", "x.jsonl"], 2, "makes its own questions"),
        (["--task", "jsonl", "--data", "none.jsonl"], 2, "no such file"),
        (["--task", "countdown", "task.max_numer=9"], 2, "max_number"),
        (["--task", "countdown", "max_number=9"], 2, "unknown key"),
        (["--task", "countdown", "--style", "chatty"], 2, "did you mean chat?"),
        (["--task", "countdown", "--split", "tst"], 2, "'tst'"),
        (["--task", "countdown", "--language", "fr"], 2, "--language: got 'fr'"),
        (["--task", "countdown", "--k", "0"], 2, "--k"),
        (["--task", "countdown", "--temperature", "-1"], 2, "temperature"),
        (["--task", "countdown", "--stop", ""], 2, "--stop"),
        (["--task", "countdown", "--endpoint", "http://127.0.0.1:1"], 2, "one of --model"),
    ],
)
def test_wrong_options_are_one_line(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, words: str
) -> None:
    assert app.run(["eval", "--model", str(tiny_model), *args]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and words in err and err.count("\n") <= 2


def test_more_questions_than_the_file_holds_out_names_the_mend(
    tiny_model: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["eval", "--model", str(tiny_model), "--task", "jsonl", "--data", str(questions), "--n", "31"]) == 2
    assert "all_rows" in capsys.readouterr().err


def test_a_missing_model_is_an_artifact_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["eval", "--model", str(tmp_path / "none"), "--task", "countdown"]) == 1
    assert "no such folder" in capsys.readouterr().err
