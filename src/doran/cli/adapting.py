"""--lora-rank, --lora-alpha and --lora-targets: what the training verbs share to train an adapter and not the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from doran.base.errors import UsageError

if TYPE_CHECKING:
    from doran.models.decoder import Decoder

LoraRank = Annotated[
    int, typer.Option("--lora-rank", metavar="R", min=0, help="Train a LoRA adapter of this rank; 0: all weights.")
]
LoraAlpha = Annotated[
    float | None, typer.Option("--lora-alpha", metavar="A", help="The adapter's scale is A / R; A is 2 R unless given.")
]
LoraTargets = Annotated[
    str | None,
    typer.Option("--lora-targets", metavar="NAMES", help="Layers to adapt, such as q_proj,v_proj; all but experts."),
]


def lora_facts(rank: int, alpha: float | None, targets: str | None) -> dict[str, Any]:
    """What `claim` should remember; empty without LoRA. UsageError: alpha or targets without a rank."""
    if not rank:
        if alpha is not None or targets is not None:
            raise UsageError("--lora-alpha and --lora-targets need --lora-rank", hint="add --lora-rank 16")
        return {}
    names = [name.strip() for name in (targets or "").split(",") if name.strip()]
    return {"lora": {"rank": rank, "alpha": 2.0 * rank if alpha is None else alpha, "targets": names}}


def adapt(model: Decoder, facts: dict[str, Any], train: Any) -> Any:
    """Put the adapter on `model`; the settings without what an adapter cannot hold (MTP, router bias)."""
    if not facts:
        return train
    from doran.layers.lora import add_lora

    add_lora(model, **facts["lora"], seed=train.seed)
    return train.model_copy(update={"mtp_lambda": 0.0, "router_bias_gamma": 0.0, "balance_alpha": 0.0})
