"""The mathematics verifier: numbers at once, other mathematics in a process that can be killed."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from doran.tasks.math import MathVerifier, depth, judge_number
from doran.tasks.math_process import Worker, WorkerFailed, Workers

needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed (pip install 'doran[math]')"
)


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    verifier = MathVerifier(timeout_s=30)
    yield verifier
    verifier.close()


@pytest.mark.parametrize(("gold", "text"), [
    ("3", "**Answer: 3**"), ("3", "\\[ x = 3 \\]"), ("3", "정답은 \\(3\\)입니다"), ("3", "Answer: \\(3\\)"),
    ("3", "정답은 3입니다"), ("3", "정답은 ３입니다."), ("3", "The answer is 3."), ("18", "so\n#### 18"),
    ("18", "A: $18.00"),
    ("3", "<think>4</think>\\boxed{3}"), ("3", "\\boxed{3} again \\boxed{3.0}"), ("0.5", "\\boxed{\\frac{1}{2}}"),
    ("0.5", "50%"), ("70000", "Answer: 70,000 won"), ("35000", "답: 3만 5천원"), ("7", "3 + 4 = 7"),
    ("3", "it is 3 apples"),
    ("철수", "정답은 철수입니다."), ("(나)", "나"), ("white", "The answer is White."), ("14.5", "14.5 cm"),
    ("-2", "\\boxed{−2}"),
])
def test_right_answers(gold: str, text: str, verifier: MathVerifier) -> None:
    score = verifier.judge(gold, text)
    assert score.correct, score.reason


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("gold", "text"), [
    ("3", ""), ("3", "<think>3</think>"), ("3", "<think>3"), ("3", "<think>\\boxed{3}</think>4"), ("3", "3 or 4"),
    ("3", "\\boxed{3} \\boxed{4}"), ("3", "Answer: 4\nAnswer: 3"), ("13", "\\boxed{16 - 3}"), ("15", "1.5"),
    ("1", "1.5"),
    ("3", "3³"), ("387420489", "9**9"), ("3", "9**9**9"), ("3", "(" * 5000 + "3" + ")" * 5000), ("3", "3" * 1_000_000),
    ("3", "\\boxed{" * 140_000), ("3", "3!"), ("3", "3//1"), ("3", "3x"), ("0.05", "5"),
    ("3", "\\boxed{factorial(10**9)}"),
])
def test_wrong_answers_and_cheats(gold: str, text: str, verifier: MathVerifier) -> None:
    score = verifier.judge(gold, text)
    assert not score.correct and score.reward == 0.0 and score.reason


def test_a_thought_the_template_opened_is_closed_before_the_answer_counts() -> None:
    assert not judge_number("3", "<think>" + "Answer: 3").correct
    assert judge_number("3", "<think>" + "hm</think>Answer: 3").correct


def test_the_last_number_counts_only_when_asked_to_be_lenient() -> None:
    text = "First 3, then 4, and at last\nthere are 12 of them"
    assert not MathVerifier().judge("12", text).correct
    assert MathVerifier(lenient=True).judge("12", text).correct


def test_depth_counts_all_brackets() -> None:
    assert depth("([{x}])") == 3 and depth(")(") == 1 and depth("") == 0


@needs_math_verify
def test_equal_mathematics_is_recognised(verifier: MathVerifier) -> None:
    for gold, text, correct in [
        ("x+1", "\\boxed{1+x}", True), ("x+1", "\\boxed{x+2}", False),
        ("\\frac{\\sqrt{2}}{2}", "\\boxed{\\frac{1}{\\sqrt{2}}}", True), ("(1, 2)", "\\boxed{(1,2)}", True),
        ("x+1", "\\boxed{\\notacommand{}", False), ("x+1", "\\boxed{__import__('os').getpid()}", False),
    ]:
        score = verifier.judge(gold, text)
        assert score.correct is correct, (text, score.reason)


@needs_math_verify
def test_a_tower_below_the_bar_of_refusal_scores_nothing_in_bounded_time() -> None:
    verifier = MathVerifier(timeout_s=1.0)
    for text in ("9^{9^9}", "(10^9)!", "9^{99999999}", "\\sum_{k=1}^{10^9} k^{k}"):
        assert not verifier.judge("x+1", f"\\boxed{{{text}}}").correct
    verifier.close()


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library in the worker that sleeps or eats memory on demand; clock and limits are the real ones."""
    (tmp_path / "math_verify.py").write_text(
        "import time\n"
        "LatexExtractionConfig = ExprExtractionConfig = lambda **k: None\n"
        "def parse(text, **k):\n"
        "    if 'slow' in text: time.sleep(600)\n"
        "    if 'loud' in text: print('noise')\n"
        "    return [bytearray(3 << 30)] if 'huge' in text else [text]\n"
        "def verify(a, b, **k): return a == b\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("stand_in")
def test_a_late_worker_is_killed_and_the_next_question_answered() -> None:
    worker = Worker(timeout_s=60, memory_mb=512)
    assert worker.ask({"gold": "x", "answer": "x"})["equal"]
    first = worker.process
    worker.timeout_s = 0.2
    with pytest.raises(WorkerFailed, match=r"within 0\.2 s"):
        worker.ask({"gold": "x", "answer": "slow"})
    assert first is not None and first.poll() is not None
    worker.timeout_s = 60
    assert worker.ask({"gold": "loud", "answer": "loud"})["equal"]  # what a library prints is no reply
    assert worker.process is not first
    worker.stop()


def test_a_worker_that_cannot_start_scores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr("doran.tasks.math_process._WORKER", tmp_path / "broken.py")
    assert Workers(1, 1.0, 512).equal("x", "x") == (False, "the comparison died, most likely for memory")


@pytest.mark.usefixtures("stand_in")
def test_a_worker_that_eats_memory_is_stopped() -> None:
    workers = Workers(1, 60.0, 512)
    assert workers.equal("x", "huge")[0] is False
    assert workers.equal("x", "x")[0] is True
    workers.close()


def test_without_math_verify_the_reason_says_what_was_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    verifier = MathVerifier()
    assert verifier.judge("1/2", "0.5").correct
    score = verifier.judge("x+1", "\\boxed{1+x}")
    assert not score.correct and "doran[math]" in score.reason


def test_hopeless_mathematics_is_refused_before_any_process_sees_it() -> None:
    verifier = MathVerifier()
    for text in ("9**9**9**9", "9^{9^{9^{9}}}", "((" * 20, "x" * 500, "12345!", "1" * 40):
        assert "refused" in verifier.judge("x+1", f"<answer>{text}</answer>").reason
    assert verifier.workers is None or verifier.workers.all[0].process is None


def test_verdicts_agree_with_gsm8k_labels(shared_data: Path) -> None:
    """5,276 real model solutions, labelled right and wrong by the publisher."""
    with gzip.open(shared_data / "gsm8k/example_model_solutions.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            gold = row["ground_truth"].rpartition("A:")[2].strip()
            for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
                assert judge_number(gold, row[model]["solution"]).correct == row[model]["is_correct"]
