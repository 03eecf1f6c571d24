"""What drafts are worth on a model of the recipe: acceptance and tokens a forward. Counts, not speed.

`top p` is the mean probability of the likeliest token along the same completions. At temperature 1 no draft of one
token at every position can be accepted more often, so it says how much of an acceptance is the text's doing.

    python bench/speculation.py --model runs/latest/stages/02-base/model
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from doran.engine import Engine, SamplingParams
from doran.engine.speculate import MTPDraft, NGramDraft, speculate
from doran.layers.attention import PackedAttend
from doran.models.decoder import Decoder
from doran.models.weights import load_model
from doran.tasks import get_task
from doran.text.tokenizer import Tokenizer


def main() -> None:
    """Print a row for each temperature, draft and width."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", type=Path, required=True, help="folder with model and tokenizer")
    made.add_argument("--prompts", type=int, default=24)
    args = made.parse_args()
    model, tokenizer = load_model(args.model), Tokenizer.load(args.model)
    asked = [[{"role": "user", "content": x.prompt}] for x in get_task("countdown").generate("test", args.prompts, 5)]
    prompts = [tokenizer.encode(tokenizer.apply_chat(x, add_generation_prompt=True), specials=True) for x in asked]
    print(
        "| temperature | drafts | width | accepted | tokens a forward | same completions | top p |\n" + "|---" * 7 + "|"
    )
    for temperature in (0.0, 1.0):
        params = [
            SamplingParams(200, temperature, seed=i, stop_token_ids=(tokenizer.eos_id,)) for i in range(len(prompts))
        ]
        plain = [x[0].token_ids for x in Engine(model).generate(prompts, params)]
        top = certainty(model, prompts, plain)
        for draft, width in ((NGramDraft(), 4), (MTPDraft(), 1), (MTPDraft(), 2), (MTPDraft(), 4)):
            found = [speculate(Engine(model), p, s, draft, width) for p, s in zip(prompts, params, strict=True)]
            rate = sum(f.accepted for f in found) / max(1, sum(f.drafted for f in found))
            speed = sum(map(len, plain)) / sum(f.forwards for f in found)
            same = sum(f.completion.token_ids == ids for f, ids in zip(found, plain, strict=True))
            name = "MTP" if isinstance(draft, MTPDraft) else "n-gram"
            print(
                f"| {temperature:g} | {name} | {width} | {rate:.3f} | {speed:.2f} | {same}/{len(plain)} | {top:.3f} |"
            )


@torch.no_grad()
def certainty(model: Decoder, prompts: list[list[int]], answers: list[list[int]]) -> float:
    """Mean probability of the likeliest next token over all answers."""
    best: list[float] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor(prompt + answer)
        h_TD = model(ids, torch.arange(len(ids)), PackedAttend([0, len(ids)]))
        best += model.logits(h_TD[len(prompt) - 1 : -1]).softmax(-1).amax(-1).tolist()
    return sum(best) / len(best)


if __name__ == "__main__":
    main()
