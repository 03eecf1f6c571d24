"""`doran chat`: a conversation in the terminal. Thoughts stream dimmed and fold into one line; answers stay.

On a terminal: live thoughts, colours, line editing. Elsewhere (a pipe, a file): one question per line on stdin, only
answers on stdout, everything else on stderr. What a model writes is shown as text: control characters, which could
move the cursor or retitle the window, are dropped. No server and no memory between runs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from doran.base.errors import DoranError, UsageError, suggest
from doran.serve.messages import BY_LANG, Lang, Messages
from doran.serve.session import Kind, Session

PROMPT, MORE, FOLDED = "› ", "… ", "▸ "
LIVE_LINES = 8  # of a running thought; the rest is kept for /think
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)  # \n and \t stay; no bidi tricks either

Read = Callable[[str], str]


def chat(
    model_dir: str | Path,
    *,
    engine: Any = None,
    tokenizer: Any = None,
    params: Any = None,
    lang: Lang = "en",
    read: Read | None = None,
    out: Console | None = None,
    err: Console | None = None,
) -> None:
    """Talk to the model in `model_dir` until /quit or the end of input.

    `engine` and `tokenizer` are loaded from the folder unless given (then its name is only shown); `params` are the
    engine's SamplingParams, by default temperature 0.6 (R1's advice) with the tokenizer's stop ids. `read(prompt)`
    gives one line or raises EOFError. Errors: ArtifactError and ConfigError from loading; while talking, errors are
    shown and the conversation goes on.
    """
    if engine is None or tokenizer is None:
        engine, tokenizer = _load(Path(model_dir))
    session = Session(engine, tokenizer, params or _default_params(tokenizer), name=Path(model_dir).name)
    out = out or Console(highlight=False)
    terminal = Terminal(session, BY_LANG[lang], out, err or (out if out.is_terminal else Console(stderr=True)))
    terminal.run(read or _reader(out.is_terminal and sys.stdin.isatty()))


def _load(folder: Path) -> tuple[Any, Any]:
    from doran.engine import Engine  # here: torch takes seconds, and tests bring their own engine
    from doran.models.weights import load_model
    from doran.text.tokenizer import Tokenizer

    return Engine(load_model(folder), max_batch=1), Tokenizer.load(folder)


def _default_params(tokenizer: Any) -> Any:
    from doran.engine import SamplingParams

    return SamplingParams(max_new_tokens=4096, temperature=0.6, stop_token_ids=tuple(tokenizer.stop_ids))


def _reader(interactive: bool) -> Read:
    """input() with line editing and history, or bare lines where nobody types."""
    if interactive:
        with suppress(ImportError):
            import readline  # noqa: F401  input() uses it once it is imported
        return input
    return lambda prompt: _next_line(sys.stdin)


def _next_line(file: Any) -> str:
    line: str = file.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


@dataclass
class Terminal:
    """The loop and what it shows. `out` gets answers, `err` everything about them."""

    session: Session
    say: Messages
    out: Console
    err: Console

    def run(self, read: Read) -> None:
        """Read, obey or answer, until /quit, the end of input, or Ctrl-C twice in a row at the prompt."""
        self._note(self.say.welcome.format(name=self.session.name))
        interrupted = False
        while True:
            try:
                text = read_message(read)
                interrupted = False
                if not self._handle(text):
                    break
            except EOFError:
                break
            except KeyboardInterrupt:
                if interrupted:
                    break
                interrupted = True
                self._note("\n" + self.say.leave_hint)
            except DoranError as error:
                self._note(str(error), "red")
        self._note(self.say.bye)

    def _handle(self, text: str) -> bool:
        """One message or command; False ends the chat."""
        if text.startswith("/") and not text.startswith("//"):
            name, _, argument = text.partition(" ")
            return self._command(name, argument.strip())
        if text.strip():
            self._answer(text.removeprefix("/") if text.startswith("//") else text)
        return True

    # ---- commands ----------------------------------------------------------------------------------------------

    def _command(self, name: str, argument: str) -> bool:
        if name in ("/quit", "/exit"):
            return False
        commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._note(self.say.help),
            "/new": lambda _: self._new(),
            "/think": lambda _: self._think(),
            "/temp": self._temp,
            "/seed": self._seed,
            "/save": self._save,
        }
        if name in commands:
            commands[name](argument)
        else:
            self._note(self.say.unknown.format(name=name, hint=suggest(name, [*commands, "/quit"])))
        return True

    def _new(self) -> None:
        self.session.new()
        self._note(self.say.cleared)

    def _think(self) -> None:
        thought = self.session.last.thought.strip() if self.session.last else ""
        self._note(clean(thought) or self.say.no_thought)

    def _temp(self, argument: str) -> None:
        if argument:
            self.session.set(temperature=self._number("/temp", argument, float, "0.6"))
        self._note(self.say.temp.format(value=self.session.params.temperature))

    def _seed(self, argument: str) -> None:
        if argument:
            self.session.set(seed=self._number("/seed", argument, int, "7"))
        self._note(self.say.seed.format(value=self.session.params.seed))

    def _number(self, name: str, argument: str, kind: type, example: str) -> Any:
        try:
            return kind(argument)
        except ValueError:
            raise UsageError(self.say.needs_number.format(name=name, example=example)) from None

    def _save(self, argument: str) -> None:
        if not argument:
            raise UsageError(self.say.needs_path)
        path = Path(argument).expanduser()
        if path.exists():
            raise UsageError(self.say.exists.format(path=path))
        self.session.save(path)
        self._note(self.say.saved.format(path=path))

    # ---- answers -----------------------------------------------------------------------------------------------

    def _answer(self, text: str) -> None:
        """Stream one reply; Ctrl-C ends it and keeps what was said."""
        try:
            with closing(self.session.reply(text)) as parts:
                self._stream(parts)
        except KeyboardInterrupt:
            pass
        if self.session.last and self.session.last.answer.strip():
            self._write("\n")
        if self.session.forgotten:
            self._note(self.say.forgot.format(turns=self.session.forgotten))
        self._epilogue()

    def _stream(self, parts: Iterator[tuple[Kind, str]]) -> None:
        """Thought first, live, then the fold, then the answer. The blanks between thought and answer are not shown."""
        live = Live(console=self.out, transient=True, refresh_per_second=8) if self.out.is_terminal else None
        begun = False
        try:
            if live:
                live.start()
            for kind, piece in parts:
                if kind == "reasoning" and live and not begun:
                    live.update(self._running_thought())
                elif kind == "answer":
                    piece = clean(piece) if begun else clean(piece).lstrip()
                    if piece and not begun:
                        begun = True
                        _stop(live)
                        self._fold()
                    self._write(piece)
        finally:
            _stop(live)
            if not begun:
                self._fold()

    def _running_thought(self) -> Text:
        """The last lines of the thought, dimmed, as many as fit without scrolling."""
        thought = clean(self.session.last.thought if self.session.last else "").strip()
        lines = Text(thought, style="dim").wrap(self.out, max(20, self.out.width - 2))
        shown = lines[-LIVE_LINES:]
        return Text("\n").join([Text(f"{self.say.thinking} …", style="dim italic"), *shown])

    def _fold(self) -> None:
        last = self.session.last
        if last and last.thought.strip():
            words = self.say.thought.format(seconds=last.thought_seconds, tokens=last.thought_tokens)
            self._note(FOLDED + words)

    def _epilogue(self) -> None:
        """Why a reply ended, where that is not simply the end."""
        last = self.session.last
        if last is None:
            return
        reasons = {"length": self.say.cut.format(tokens=last.tokens), "user": self.say.stopped, "stop": ""}
        missing = "" if last.answer.strip() else self.say.no_answer
        if note := ", ".join(part for part in (missing, reasons[last.ended]) if part):
            self._note(f"({note})")

    def _write(self, text: str) -> None:
        """To the file itself: rich would wrap lines and read `:smile:` as an emoji."""
        self.out.file.write(text)
        self.out.file.flush()

    def _note(self, text: str, style: str = "dim") -> None:
        self.err.print(Text(text, style=style), soft_wrap=True)


def _stop(live: Live | None) -> None:
    if live and live.is_started:
        live.update(Text(""))
        live.stop()


def read_message(read: Read) -> str:
    """One message: lines joined while they end in a backslash. An end of input after a backslash ends the message."""
    lines: list[str] = []
    prompt = PROMPT
    while True:
        try:
            line = read(prompt)
        except EOFError:
            if not lines:
                raise
            return "\n".join(lines)
        if not line.endswith("\\"):
            return "\n".join([*lines, line])
        lines.append(line[:-1])
        prompt = MORE


def clean(text: str) -> str:
    """Text without control characters."""
    return CONTROL.sub("", text)
