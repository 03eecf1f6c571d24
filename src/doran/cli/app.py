"""The command `doran`: finds the verb, runs it, and turns every error into one clear line and an exit code.

Nothing heavy is imported here: `doran --help` must answer before torch could be loaded, so a verb's module is imported
when that verb is called. What a verb does is in its own file; the table of verbs is in verbs.py.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import doran
from doran.base.errors import DoranError, OutOfMemory, UsageError, suggest
from doran.cli.messages import from_environment, option_help, spoken, told, verb_help
from doran.cli.verbs import NAMES, help_page, module_of
from doran.parallel import launched

EXTRA_OF = {  # an import that fails -> the optional part of doran that brings it
    "pyarrow": "data",
    "sympy": "math",
    "math_verify": "math",
    "latex2sympy2_extended": "math",
    "reasoning_gym": "gym",
    "transformers": "test",
    "fastapi": "serve",
    "uvicorn": "serve",
    "starlette": "serve",
    "prometheus_client": "serve",
    "llguidance": "serve",
}


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """The exit code of the command line `args`. Users' errors are printed, our own mistakes keep their traceback."""
    language = from_environment(os.environ)
    try:
        args, language = spoken(args)
        if launched():
            from doran.cli.together import together

            return together(args, lambda: _dispatch(args, language))
        return _dispatch(args, language)
    except KeyboardInterrupt:
        return _report(DoranError("interrupted"), language, code=130)
    except BrokenPipeError:  # the reader of our output (head, less) has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        known = as_user_error(error)
        if known is None:
            raise
        return _report(known, language)


def as_user_error(error: BaseException) -> DoranError | None:
    """`error` as a DoranError when a user can do something about it, else None."""
    if isinstance(error, DoranError):
        return error
    if isinstance(error, MemoryError) or _is_torch_out_of_memory(error):
        return OutOfMemory(
            "out of memory",
            hint="use a smaller batch, a shorter context or a smaller model; `doran doctor` shows what is free",
        )
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRA_OF.get((error.name or "").partition(".")[0])):
        return DoranError(f"the package {error.name} is not installed", hint=f"pip install 'doran[{extra}]'")
    return None


def _dispatch(args: Sequence[str], language: str = "en") -> int:
    verb = args[0] if args else "--help"
    if verb in ("--help", "-h", "help"):
        print(help_page(language))
        return 0 if args else 2
    if verb in ("--version", "-V"):
        print(f"doran {doran.__version__}")
        return 0
    if verb not in NAMES:
        what = "option" if verb.startswith("-") else "verb"
        raise UsageError(f"unknown {what} {verb!r}", hint=f"{suggest(verb, NAMES)} (`doran --help` explains them)")
    return _run_verb(verb, args[1:], language)


def _run_verb(verb: str, args: Sequence[str], language: str = "en") -> int:
    import typer

    module = importlib.import_module(f"doran.cli.{module_of(verb)}")
    command = module.main
    if args and args[0] in getattr(module, "SUBVERBS", {}):  # such as `doran eval compare`
        command, verb, args = module.SUBVERBS[args[0]], f"{verb} {args[0]}", args[1:]
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100})(command)
    # typer exports BadParameter but not its base, which also stands for unknown and missing options.
    usage_error: Any = typer.BadParameter.__mro__[1]
    parsed = typer.main.get_command(app)
    parsed.help = verb_help(verb, parsed.help, language)
    for option in parsed.params:
        if hasattr(option, "help"):
            option.help = option_help(option.help, language)
    try:
        result = parsed.main(list(args), prog_name=f"doran {verb}", standalone_mode=False)
    except usage_error as error:
        raise UsageError(error.format_message(), hint=f"doran {verb} --help lists all options") from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    return result if isinstance(result, int) else 0


def _report(error: DoranError, language: str = "en", code: int | None = None) -> int:
    words = ("오류", "도움말") if language == "ko" else ("error", "hint")
    print(f"{words[0]}: {told(error.message, language)}", file=sys.stderr)
    if error.hint:
        print(f"{words[1]}: {told(error.hint, language)}", file=sys.stderr)
    return error.exit_code if code is None else code


def _is_torch_out_of_memory(error: BaseException) -> bool:
    """Torch has a class of its own for a GPU only; on a CPU it is a RuntimeError known by its words."""
    words = ("DefaultCPUAllocator", "can't allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or any(word in str(error) for word in words)
    )
