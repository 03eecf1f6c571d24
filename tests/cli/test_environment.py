"""`doran rl --environment`: a user's file talks with the model; a mistake in it is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from doran.base.runlog import read_metrics
from doran.cli import app
from doran.train.recorder import read_step

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "train.steps=2", "train.prompts_per_step=2", "train.group_size=2", "train.max_new_tokens=12",
    "train.warmup_steps=0",
)  # fmt: skip

PARROT = '''
class Parrot:
    """Says the model's last token once more after every second token of the vocabulary."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.stop_token_ids = range(10, tokenizer.vocab_size, 2)

    def begin(self, item):
        said = []

        def reply(text):
            said.append(text)
            return self.tokenizer.encode("7") if len(said) < 3 else None

        return reply

class NoTool:
    def __init__(self, tokenizer):
        self.stop_token_ids = (10**9,)
        self.begin = None

def broken(tokenizer):
    return tokenizer.no_such_thing
'''


def rl(capsys: pytest.CaptureFixture[str], model: Path, out: Path, *args: str) -> tuple[int, str, str]:
    given = ("--task", "arithmetic", "--style", "plain", "--pool", "20", "--reward", "language=1", *TINY)
    code = app.run(["rl", "--model", str(model), "--out", str(out), *given, *args])
    return code, *capsys.readouterr()


def test_a_users_environment_answers_between_turns(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PARROT, encoding="utf-8")
    code, _, err = rl(capsys, tiny_model, tmp_path / "out", "--environment", f"{file}:Parrot")
    assert code == 0, err
    rows = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert len(rows) == 2 and all(row["environment/tokens"] > 0 for row in rows)
    turns = read_step(tmp_path / "out" / "rollouts" / "step_00000001.jsonl")
    assert any(False in (turn["own"] or []) for turn in turns)
    code, _, err = rl(capsys, tiny_model, tmp_path / "out")
    assert code == 2 and "was made with environment" in err


def test_the_calculator_of_the_examples_is_taken(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = f"{ROOT / 'examples' / 'calculator_tool.py'}:Calculator"
    code, _, err = rl(capsys, tiny_model, tmp_path / "out", "--environment", tool, "train.max_turns=64")
    assert code == 0, err


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mine.py", "write tools.py:Calculator"),
        ("none.py:Parrot", "no such file"),
        ("mine.py:Parot", "did you mean Parrot?"),
        ("mine.py:NoTool", "which is no token"),
        ("mine.py:broken", "AttributeError"),
        ("torn.py:Parrot", "SyntaxError"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch, spec: str, words: str
) -> None:
    (tmp_path / "mine.py").write_text(PARROT, encoding="utf-8")
    (tmp_path / "torn.py").write_text("class Parrot(:", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code, out, err = rl(capsys, tiny_model, tmp_path / "out", "--environment", spec)
    assert code in (1, 2) and out == "" and words in err and err.startswith("error: ")
    assert not (tmp_path / "out").exists()
