"""What the two processes of a test do, and what one does alone to compare: small models, small data. No test here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from doran.arch.presets import tiny
from doran.base.config import build as build_settings
from doran.base.rng import python_rng
from doran.base.runlog import read_metrics
from doran.data.packing import Pack
from doran.engine.request import Completion
from doran.models.decoder import Decoder
from doran.models.families import build
from doran.models.weights import load_model
from doran.parallel.world import SOLO, Parallel, World
from doran.train.batch import pack
from doran.train.grpo import GrpoSettings, run_grpo
from doran.train.loop import module_tensors
from doran.train.pretrain import PretrainSettings, run_pretrain
from doran.train.rollout import Dialect, Reward, draw_from
from doran.train.sft import SftSettings, run_sft

__all__ = ["SOLO"]
QUIET = {"checkpoint_every_s": None, "bf16": False, "warmup_steps": 0}
SAMPLES = [([2, a, b, (a + b) % 16, 1], [False, False, False, True, True]) for a in range(6) for b in range(6)]


def model(**changes: Any) -> Decoder:
    """Two small layers with MLA and experts, and MTP unless told."""
    config = tiny(vocab_size=32, hidden_size=32, num_hidden_layers=2, max_position_embeddings=64, **changes)
    return build(config, seed=0)


def packs(position: int) -> Iterator[Pack]:
    """Documents of 8 to 23 tokens that count upwards; every third pack holds a single one."""
    while True:
        rng = python_rng("counting", position)
        samples = []
        for _ in range(1 if position % 3 == 1 else 9):
            start, stride = rng.randrange(32), rng.randrange(1, 4)
            ids = [(start + stride * i) % 32 for i in range(rng.randrange(8, 24))]
            samples.append((ids, [True] * len(ids)))
        yield pack(samples)
        position += 1


def divided(world: World, parallel: dict[str, str] | None) -> World:
    """The same processes, dividing what `parallel` says."""
    return replace(world, parallel=Parallel(**(parallel or {})))  # type: ignore[arg-type]


def seen(out: Path, *names: str) -> list[tuple[float, ...]]:
    """Columns of metrics.jsonl."""
    return [tuple(row[name] for name in names) for row in read_metrics(out / "metrics.jsonl")]


def pretrain(
    world: World, out: Path, parallel: dict[str, str] | None = None, mtp: bool = False, **changes: Any
) -> None:
    """Five steps."""
    settings = build_settings(PretrainSettings, {"steps": 5, "lr": 3e-3, **QUIET, **changes})
    run_pretrain(model(num_nextn_predict_layers=int(mtp)), packs, settings, out, world=divided(world, parallel))


def sft(world: World, out: Path, parallel: dict[str, str] | None = None, **changes: Any) -> None:
    """Three steps."""
    settings = build_settings(SftSettings, {"epochs": 1, "tokens_per_batch": 64, "lr": 3e-3, **QUIET, **changes})
    run_sft(model(num_nextn_predict_layers=0), SAMPLES, settings, out, world=divided(world, parallel))


def sevens(items: list, texts: list[str], completions: list[Completion]) -> list[float]:
    """Share of sevens."""
    return [c.token_ids.count(7) / 6 for c in completions]


def grpo(world: World, out: Path, parallel: dict[str, str] | None = None, **changes: Any) -> None:
    """Two steps."""
    values = {
        "steps": 2, "lr": 3e-3, "prompts_per_step": 5, "group_size": 6, "max_new_tokens": 6, "rollout_bf16": False,
        "record": "jsonl", **QUIET, **changes,
    }  # fmt: skip
    dialect = Dialect(lambda item: [2, item], lambda ids: " ".join(map(str, ids)), (1,))
    settings = build_settings(GrpoSettings, values)
    run_grpo(
        model(), dialect, draw_from(list(range(3, 12))), [Reward("sevens", 1.0, sevens)], settings, out,
        watch=lambda: {"eval/looked": float(world.first)}, watch_every=1, world=divided(world, parallel),
    )  # fmt: skip


def weights(folder: Path) -> dict[str, Tensor]:
    """Of a finished run."""
    return module_tensors(load_model(folder / "model"))


def same_job(world: World, job: str, out: str, changes: dict[str, Any]) -> None:
    """A job of this file with its settings by name."""
    globals()[job](world, Path(out), **changes)


def stopped_after(world: World, job: str, out: str, step: int, changes: dict[str, Any]) -> None:
    """As same_job, but interrupted after a step."""
    from doran.base.errors import Interrupted
    from doran.train import loop

    was = loop.Loop._save
    loop.Loop._save = lambda self, done: (was(self, done), done == step and _stop())  # type: ignore[method-assign]
    try:
        same_job(world, job, out, changes)
    except Interrupted:
        pass
    finally:
        loop.Loop._save = was  # type: ignore[method-assign]


def _stop() -> None:
    from doran.base.errors import Interrupted

    raise Interrupted("here")


def refusals(world: World) -> list[str]:
    """What is said where weights cannot be divided."""
    from doran.base.errors import ConfigError
    from doran.layers.lora import add_lora
    from doran.parallel.shards import divide
    from doran.train.optim import OptimSettings, build_optimizer

    there = divided(world, {"data": "fsdp"})
    adapted, said = model(), []
    add_lora(adapted, 2, 4.0)
    for attempt in (
        lambda: divide(adapted, there),
        lambda: build_optimizer(model(), OptimSettings(optimizer="adamw8bit"), there),
        lambda: divide(model(n_routed_experts=7, n_group=1, topk_group=1), divided(world, {"experts": "shard"})),
    ):
        try:
            attempt()
        except ConfigError as error:
            said.append(error.message)
    return said


def rank_and_sums(world: World) -> tuple[Any, ...]:
    """Every method of a world, once."""
    t = torch.full((3,), float(world.rank + 1))
    u = torch.ones(2, dtype=torch.int64)
    world.add_up([t, u])
    p = torch.nn.Parameter(torch.zeros(2))
    q = torch.nn.Parameter(torch.zeros(2))
    if world.first:
        p.grad = torch.ones(2)
    world.add_up_gradients([p, q])
    return (
        world.rank, world.gather(world.rank), world.once(lambda: f"from {world.rank}"),
        world.sums({"a": 1, **({"b": 2} if world.rank else {})}), world.highest({"a": world.rank}),
        world.spread(5, lambda own: [10 * i for i in own]), t.tolist(), u.tolist(),
        None if p.grad is None else p.grad.tolist(), q.grad,
    )  # fmt: skip


def stages(world: World, runs: str, names: list[str], overrides: list[str]) -> tuple[bool, bool]:
    """The first stages of the smoke recipe, twice: did each call do anything?"""
    from doran.recipes.context import Context
    from doran.recipes.ledger import Ledger
    from doran.recipes.pipeline import _begin, run_stages
    from doran.recipes.recipe import load_recipe
    from doran.recipes.stages import STAGES

    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "smoke.yaml", overrides)
    ctx = Context(recipe, Path(runs) / recipe.name, world=replace(world, parallel=recipe.parallel))
    world.once(lambda: _begin(recipe, Path(runs)))
    chosen = [stage for stage in STAGES if stage.name in names]
    done = [run_stages(ctx, chosen, Ledger(recipe, ctx.run_dir), {}, False, lambda text: None) for _ in range(2)]
    return done[0], done[1]
