"""The options of verbs that sample, for guessing ahead: --speculate and --draft-tokens. What they do is in engine/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from doran.engine.request import Speculation

Speculate = Annotated[
    str,
    typer.Option(
        "--speculate", metavar="DRAFTS",
        help="Guess ahead, same tokens: mtp (by the model's MTP module), ngram (by the text so far) or none.",
    ),
]  # fmt: skip
DraftTokens = Annotated[
    int, typer.Option("--draft-tokens", metavar="N", help="Most guesses a step, 1 to 15, where --speculate is on.")
]


def speculation(drafts: str, draft_tokens: int) -> Speculation:
    """What the two options ask of an engine. UsageError for a value it does not know."""
    from doran.engine.request import Speculation

    return Speculation(drafts, draft_tokens)  # type: ignore[arg-type]  # it checks the word itself
