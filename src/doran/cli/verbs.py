"""The table of verbs: what `doran --help` lists and where each verb lives. Data only; importing it costs nothing.

To add a verb: write `cli/NAME.py` with a typed `main(...)` whose docstring is the help text (typer reads both), and
add a row. `main` prints data on stdout and all else on stderr, raises DoranError for the user's mistakes, and returns
an exit code or None.
"""

from __future__ import annotations

from typing import NamedTuple

from doran.cli.messages import told


class Verb(NamedTuple):
    """One row of the help page; the module is `doran.cli.NAME`, with _ for -."""

    name: str
    group: str
    summary: str


VERBS = (
    Verb("doctor", "Start here", "check this machine: memory, disk, speed, what is missing"),
    Verb("plan", "Start here", "what a model, job or recipe will cost: time, memory, energy, money"),
    Verb("run", "Start here", "train a reasoning model from nothing, as a recipe says"),
    Verb("chat", "Use a model", "talk with a model in the terminal, its thoughts dimmed"),
    Verb("serve", "Use a model", "answer over HTTP as OpenAI's and Anthropic's APIs do"),
    Verb("generate", "Use a model", "continue one prompt; --json for scripts"),
    Verb("eval", "Use a model", "measure a model on a task, with confidence intervals"),
    Verb("card", "Use a model", "write its model card from evaluations and receipts"),
    Verb("quantize", "Use a model", "make it smaller and faster: 8 or 4 bits a weight, damage measured"),
    Verb("export", "Use a model", "write it as a Hugging Face folder, GGUF or PEFT, checked by replay"),
    Verb("pretrain", "Train a model you have", "next-token training on your own text, from a folder or from nothing"),
    Verb("sft", "Train a model you have", "supervised fine-tuning on prompts and answers"),
    Verb("rl", "Train a model you have", "reinforcement learning (GRPO) on a task with a checkable answer"),
    Verb("rollouts", "Train a model you have", "read what a model said during RL, with rewards and advantages"),
    Verb("distill", "Train a model you have", "teach a small model with a large one's answers or probabilities"),
    Verb("reward-model", "Train a model you have", "learn from pairs which replies people prefer, for RL"),
    Verb("localise", "Train a model you have", "more Korean: new tokens, continued training, before and after"),
)
NAMES = tuple(verb.name for verb in VERBS)


def module_of(verb: str) -> str:
    """The file in cli/ that has it."""
    return verb.replace("-", "_")


def help_page(language: str = "en") -> str:
    """The text of `doran --help`."""
    lines = [
        "Usage: doran VERB [OPTIONS]",
        "",
        "doran builds, trains, measures and serves small reasoning models, DeepSeek-R1's",
        "way, on the computer you have. It needs no GPU and no network.",
    ]
    group = None
    for verb in VERBS:
        if verb.group != group:
            group = verb.group
            lines += ["", f"{told(group, language)}:"]
        lines.append(f"  {verb.name:<10} {told(verb.summary, language)}")
    lines += [
        "",
        "doran VERB --help explains a verb and its options.   doran --version",
        "",
        "A first session:",
        "  doran doctor",
        "  doran run recipes/tiny-r1.yaml        # about half an hour on 2 cores",
        "  doran chat --model runs/latest",
        "",
        "Exit codes: 0 ok, 1 failed, 2 wrong usage or settings, 3 a check failed,",
        "4 out of memory, 5 budget reached, 130 interrupted.",
    ]
    return "\n".join(told(line, language) for line in lines)
