"""How often a model leaves the wanted script with the language guard and without, and whether the rest is changed.

Each question is asked in one language with thought and answer wanted in the other, so that there is something to keep.

    python bench/language_guard.py --model runs/latest
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from doran.cli.loading import model_folder, open_model
from doran.engine import Controls, Engine, SamplingParams
from doran.serve.language import Guard, leaks
from doran.serve.prompt import build_prompt
from doran.serve.reply import Piece, Plan, Reply

NUMBERS = ((3, 7, 2), (5, 4, 6))
ASKED = {
    "ko": [f"Use {a}, {b} and {c} once each to make {a * b - c}. Think step by step." for a, b, c in NUMBERS],
    "en": [f"{a}, {b}, {c}을 한 번씩 써서 {a * b - c}을 만드세요. 차근차근 생각하세요." for a, b, c in NUMBERS],
}


def main() -> None:
    """Print one JSON object."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", type=Path, required=True)
    made.add_argument("--samples", type=int, default=32, help="replies to each question")
    made.add_argument("--max-tokens", type=int, default=160)
    made.add_argument("--temperature", type=float, default=1.0, help="high ones make a model that says little wander")
    args = made.parse_args()
    opened = open_model(model_folder(args.model))
    assert opened.tokenizer
    vocab = opened.model.config.vocab_size
    found: dict[str, dict[str, int]] = {}
    for language, questions in ASKED.items():
        guard = Guard(opened.tokenizer, language, vocab, opened.stop_ids)  # type: ignore[arg-type]
        texts: dict[bool, list[str]] = {}
        for guarded in (False, True):
            texts[guarded] = []
            live = Engine(opened.model, max_batch=args.samples).open()
            for question in questions:
                ids, inside = build_prompt(opened.tokenizer, [{"role": "user", "content": question}])
                pieces: list[list[Piece]] = [[] for _ in range(args.samples)]
                plan = Plan(opened.tokenizer, vocab, frozenset(opened.stop_ids), opened=inside)
                plan.think_guard = plan.answer_guard = guard if guarded else None
                replies = [Reply(plan, p.append) for p in pieces]
                stops = opened.stop_ids
                params = SamplingParams(args.max_tokens, temperature=args.temperature, seed=1, stop_token_ids=stops)
                live.submit(ids, params, [Controls(veto=r.veto, watch=r.watch) for r in replies])
                while live.busy:
                    live.step()
                for reply, parts in zip(replies, pieces, strict=True):
                    reply.finish("length")
                    said = ["".join(p.text for p in parts if p.kind == kind) for kind in ("reasoning", "answer")]
                    texts[guarded].append("\n".join(said))
        clean = [i for i, text in enumerate(texts[False]) if not leaks(text, language)]  # type: ignore[arg-type]
        found[language] = {
            "replies": len(texts[False]),
            "leaking_without": len(texts[False]) - len(clean),
            "leaking_with": sum(leaks(text, language) > 0 for text in texts[True]),  # type: ignore[arg-type]
            "clean_without_and_changed": sum(texts[False][i] != texts[True][i] for i in clean),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
