"""`doran generate`: continue one prompt, to read or as one JSON object. Not a chat: it remembers nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.errors import UsageError
from doran.cli.experts_cache import ExpertsCache, check_streaming, experts_report
from doran.cli.loading import Opened, open_model
from doran.cli.options import Dtype, Json, ModelDir, Seed, Threads, parse_token_ids, print_json, use_threads
from doran.cli.speculating import DraftTokens, Speculate, speculation

if TYPE_CHECKING:
    from doran.engine.request import Completion, SamplingParams, Speculation
    from doran.text.tokenizer import Tokenizer

DIM, NORMAL = "\x1b[2m", "\x1b[0m"


def main(
    model: ModelDir,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="What to say to the model.")] = None,
    prompt_ids: Annotated[
        str | None, typer.Option("--prompt-ids", metavar="1,2,3", help="Token ids to continue, as they are.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", help="Stop after this many tokens.")
    ] = 512,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", help="0 takes the likeliest token each time.")
    ] = 0.6,
    top_p: Annotated[
        float, typer.Option("--top-p", metavar="P", help="Sample from the likeliest tokens up to this probability.")
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option("--top-k", metavar="K", help="Sample from the K likeliest tokens; 0 means all.")
    ] = 0,
    seed: Seed = 0,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue TEXT itself, without the chat template (for base models).")
    ] = False,
    as_json: Json = False,
    dtype: Dtype = "float32",
    experts_cache: ExpertsCache = None,
    speculate: Speculate = "none",
    draft_tokens: DraftTokens = 2,
    threads: Threads = None,
) -> None:
    """Continue one prompt with a model.

    The prompt is put into the model's chat template unless --raw is given. With --json the output is one object:
    token_ids, logprobs (natural log of each generated token's probability at the temperature used; at temperature 0,
    of the model's own), text (all that was generated, without the end token), reasoning (what stands between
    <think> and </think>) and finish_reason ("stop" or "length"). With --experts-cache also experts_cache: hits and
    bytes read, for the prompt and for the new tokens.

    Example: doran generate --model runs/latest --prompt "12 + 30 =" --temperature 0
    """
    if (prompt is None) == (prompt_ids is None):
        raise UsageError("give either --prompt or --prompt-ids", hint='such as --prompt "What is 12 + 30?"')
    given_ids = parse_token_ids(prompt_ids) if prompt_ids is not None else None
    from doran.engine.request import SamplingParams

    params: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
    }
    SamplingParams(**params)  # refuse a wrong value before the weights are read
    ahead = speculation(speculate, draft_tokens)
    check_streaming(experts_cache, speculate)
    use_threads(threads)
    opened = open_model(model, dtype, given_ids is None, experts_cache)
    ids, in_thought = (
        (given_ids, False) if given_ids is not None else encode_prompt(opened.tokenizer, prompt or "", raw)
    )
    settings = SamplingParams(**params, stop_token_ids=opened.stop_ids)
    if as_json or opened.tokenizer is None:
        from doran.engine import Engine

        completion = Engine(opened.model, max_batch=1, speculation=ahead).generate([ids], settings)[0][0]
        print_json(as_record(completion, opened, in_thought) | experts_report(opened.model))
    else:
        show(opened, ids, settings, in_thought, ahead)


def encode_prompt(tokenizer: Tokenizer | None, prompt: str, raw: bool) -> tuple[list[int], bool]:
    """(ids, whether the template already opened a thought) for the user's text."""
    assert tokenizer is not None
    if (
        raw
    ):  # what transformers' tokenizer(text) gives: the tokenizer's own begin token, special tokens in the text obeyed
        ids = tokenizer.backend.encode(prompt, add_special_tokens=True).ids
        if not ids:
            raise UsageError(
                "--prompt: an empty text cannot be continued", hint="write something, or give --prompt-ids"
            )
        return ids, False
    if tokenizer.chat_template is None:
        raise UsageError("this model has no chat template", hint="add --raw to continue the text itself")
    from doran.text.parse import opens_thought

    messages = [{"role": "user", "content": prompt}]
    return tokenizer.encode_chat(messages), opens_thought(tokenizer.apply_chat(messages))


def as_record(completion: Completion, opened: Opened, in_thought: bool) -> dict[str, Any]:
    """The JSON object of a completion; text and reasoning are null where the folder has no tokenizer."""
    from doran.text.parse import split_thought

    record: dict[str, Any] = {
        "token_ids": completion.token_ids,
        "logprobs": completion.logprobs,
        "text": None,
        "reasoning": None,
    }
    if opened.tokenizer is not None:
        ids = completion.token_ids[:-1] if completion.finish_reason == "stop" else completion.token_ids
        record["text"] = opened.tokenizer.decode(ids, skip_special=True)
        record["reasoning"] = split_thought(opened.tokenizer.decode(ids), opened=in_thought).reasoning.strip()
    return {**record, "finish_reason": completion.finish_reason}


def show(
    opened: Opened, ids: list[int], settings: SamplingParams, in_thought: bool, ahead: Speculation
) -> None:
    """Write the reply to stdout as it is made, the thought dimmed on a terminal and between its tags elsewhere."""
    from doran.engine import Engine
    from doran.text.detok import Detokenizer
    from doran.text.parse import StreamSplitter

    assert opened.tokenizer is not None
    colour = sys.stdout.isatty()
    detokenizer, splitter = Detokenizer(opened.tokenizer), StreamSplitter(opened=in_thought)
    last = None

    def write(piece: str) -> None:
        nonlocal last
        for kind, text in splitter.feed(piece):
            mark = (
                (DIM if kind == "reasoning" else NORMAL)
                if colour
                else ("<think>" if kind == "reasoning" else "</think>")
            )
            if kind != last and (colour or kind == "reasoning" or last == "reasoning"):
                sys.stdout.write(mark)
            last = kind
            sys.stdout.write(text)
        sys.stdout.flush()

    for token_id, _ in Engine(opened.model, max_batch=1, speculation=ahead).stream(ids, settings):
        if token_id not in opened.stop_ids:
            write(detokenizer.feed(token_id))
    write(detokenizer.close())
    for _, text in splitter.close():
        sys.stdout.write(text)
    sys.stdout.write((NORMAL if colour else "") + "\n")
