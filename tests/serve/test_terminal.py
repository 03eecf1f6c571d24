"""The chat loop with scripted input and a scripted model, on a pipe and on a pretended terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from rich.console import Console

from doran.base.errors import UsageError
from doran.serve.messages import BY_LANG, EN, KO
from doran.serve.terminal import chat, clean, read_message
from doran.text.tokenizer import train_bpe


@dataclass(frozen=True)
class Params:
    max_new_tokens: int = 64
    temperature: float = 0.6
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self):
        if self.temperature < 0:
            raise UsageError("temperature is below 0", hint="use 0 or more")


class Script:
    """Says the next line; a line that ends in ^C is interrupted there."""

    def __init__(self, tokenizer, *lines: str) -> None:
        self.tokenizer, self.lines, self.params = tokenizer, list(lines), []

    def stream(self, prompt_ids, params) -> Iterator[tuple[int, float]]:
        self.params.append(params)
        line = self.lines.pop(0)
        for token in self.tokenizer.encode(line.removesuffix("^C"), specials=True):
            yield token, 0.0
        if line.endswith("^C"):
            raise KeyboardInterrupt
        yield self.tokenizer.eos_id, 0.0


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(["three and four make seven"], 400, whole_numbers_up_to=9)


def typed(*lines: object):
    """A reader of these lines; an exception among them is raised; then the input ends."""
    left = list(lines)

    def read(prompt: str) -> str:
        if not left:
            raise EOFError
        line = left.pop(0)
        if isinstance(line, type):
            raise line
        return line

    return read


def talk(tokenizer, lines, *script: str, tty: bool = False, lang="en") -> tuple[str, str, Script]:
    """(stdout, stderr, engine) of a whole chat."""
    engine = Script(tokenizer, *script)
    out = Console(file=io.StringIO(), force_terminal=tty, width=60, color_system=None, _environ={"TERM": "xterm"})
    err = out if tty else Console(file=io.StringIO(), width=60)
    params = replace(Params(), stop_token_ids=(tokenizer.eos_id,))
    chat(
        "models/tiny",
        engine=engine,
        tokenizer=tokenizer,
        params=params,
        lang=lang,
        read=typed(*lines),
        out=out,
        err=err,
    )
    return out.file.getvalue(), err.file.getvalue(), engine


def test_on_a_pipe_only_answers_reach_stdout(tokenizer):
    out, err, _ = talk(tokenizer, ["3+4?", "", "5+6?"], "<think>three and four</think>\n\nseven :smile:\n칠", "eleven")
    assert out == "seven :smile:\n칠\neleven\n"
    assert "thought for" in err and "three and four" not in err and "tiny" in err


def test_the_end_of_input_and_quit_both_leave(tokenizer):
    assert EN.bye in talk(tokenizer, [])[1]
    assert EN.bye in talk(tokenizer, ["/quit", "never read"])[1]


def test_think_shows_the_last_thought_in_full(tokenizer):
    _, err, _ = talk(tokenizer, ["/think", "3+4?", "/think"], "<think>three and four</think>seven")
    assert EN.no_thought in err and err.index("thought for") < err.index("three and four")


def test_settings_change_and_are_checked(tokenizer):
    _, err, engine = talk(tokenizer, ["/temp 0", "/seed 7", "/temp -1", "/temp hot", "/seed", "x"], "ok")
    assert engine.params[0].temperature == 0
    for words in (
        "temperature 0",
        "seed 7",
        "temperature is below 0; use 0 or more",
        "/temp takes a number, such as /temp 0.6",
    ):
        assert words in err


def test_unknown_commands_name_the_nearest_and_a_double_slash_is_a_message(tokenizer):
    _, err, engine = talk(tokenizer, ["/halp", "//halp"], "ok")
    assert "/halp" in err and "/help" in err and len(engine.params) == 1


def test_new_forgets_the_conversation(tokenizer):
    _, err, engine = talk(tokenizer, ["a", "/new", "a"], "one", "two")
    assert EN.cleared in err and engine.params[0].seed == engine.params[1].seed  # a first turn again


def test_save_writes_once_and_refuses_to_overwrite(tokenizer, tmp_path):
    path = tmp_path / "chat.json"
    _, err, _ = talk(tokenizer, ["a", f"/save {path}", f"/save {path}", "/save"], "one")
    assert path.exists() and "Saved" in err.replace("\n", " ") and "exists already" in err.replace("\n", " ")
    assert "/save takes a file name" in err


def test_ctrl_c_stops_the_answer_and_not_the_program(tokenizer):
    out, err, _ = talk(tokenizer, ["a", "b"], "seven and^C", "eight")
    assert out == "seven and\neight\n" and EN.stopped in err


def test_ctrl_c_in_the_thought_folds_it(tokenizer):
    out, err, _ = talk(tokenizer, ["a", "/think"], "<think>three and^C")
    assert out == "" and err.count("thought for") == 1 and "three and" in err and EN.no_answer in err


def test_ctrl_c_at_the_prompt_leaves_only_when_repeated(tokenizer):
    out, err, _ = talk(tokenizer, [KeyboardInterrupt, "a", KeyboardInterrupt, KeyboardInterrupt, "b"], "one")
    assert out == "one\n" and err.count(EN.leave_hint) == 2


def test_a_thought_that_meets_the_limit_says_so(tokenizer):
    class Cut(Script):
        def stream(self, prompt_ids, params):
            yield from list(super().stream(prompt_ids, params))[:-1]

    engine, err = Cut(tokenizer, "<think>on and on"), Console(file=io.StringIO(), width=80)
    out = Console(file=io.StringIO())
    chat("m", engine=engine, tokenizer=tokenizer, params=Params(), read=typed("a"), out=out, err=err)
    assert "no answer, stopped at the limit" in err.file.getvalue() and out.file.getvalue() == ""


def test_on_a_terminal_the_thought_is_live_and_then_folded(tokenizer):
    shown, _, _ = talk(tokenizer, ["3+4?"], "<think>three and four</think>seven", tty=True)
    assert "seven\n" in shown and shown.index("thought for") < shown.index("seven")
    assert "\x1b[2K" in shown  # the live lines were erased


def test_what_a_model_writes_cannot_steer_the_terminal(tokenizer):
    out, _, _ = talk(tokenizer, ["a"], "\x1b]0;owned\x07\x1b[2Jred\x9b31m\u202e x")
    assert out == "]0;owned[2Jred31m x\n"
    assert clean("a\tb\nc\r") == "a\tb\nc"


def test_korean_messages(tokenizer):
    _, err, _ = talk(tokenizer, ["/help", "3+4?"], "<think>three</think>seven", lang="ko")
    assert "초 동안 생각함" in err and KO.bye in err and "나가기" in err


def test_both_languages_fill_the_same_gaps():
    import re

    for name in vars(EN):
        gaps = [sorted(re.findall(r"{(\w+)", getattr(m, name))) for m in BY_LANG.values()]
        assert gaps[0] == gaps[1], name


def test_a_backslash_joins_lines():
    assert read_message(typed("one\\", "two\\", "three", "four")) == "one\ntwo\nthree"
    assert read_message(typed("one\\")) == "one"
    with pytest.raises(EOFError):
        read_message(typed())
