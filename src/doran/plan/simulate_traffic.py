"""Traffic between devices, played: expert all-to-all with node-limited routing, and FSDP's gathers beside the layers.

Tokens choose experts at random (a seed names the draw), so the busiest link is longer than the mean one; the form in
cluster.py knows the mean only. Collectives are not modelled below the level of bytes a link carries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from doran.arch.config import ModelConfig
from doran.base.errors import ConfigError
from doran.base.rng import numpy_rng
from doran.plan.hardware import Efficiency, Hardware


@dataclass(frozen=True)
class Exchange:
    """Dispatch and combine of one expert layer. Shapes: D devices, one entry each, for the tokens that were drawn."""

    copies_to_nodes: float  # mean nodes away that a token goes to
    visits_D: NDArray[np.int64]  # token copies each device's experts get
    between_D: NDArray[np.int64]  # copies each device sends to other nodes
    inside_D: NDArray[np.int64]  # copies each device hands on inside its node
    seconds: float  # until the slowest link is done, forward, both ways

    @property
    def imbalance(self) -> float:
        """Work of the busiest device over the mean: what everybody waits for."""
        return float(self.visits_D.max() / self.visits_D.mean())


def route(config: ModelConfig, tokens: int, seed: int = 0, skew: float = 0.0) -> NDArray[np.int64]:
    """(T, K) experts of `tokens` tokens, chosen as the router does: groups by their best two, then the best of those.

    Scores are uniform; `skew` adds a constant to each expert's (standard deviation), as an unbalanced router would.
    """
    if not config.n_routed_experts:
        raise ConfigError("this model has no routed experts", hint="name one with experts, such as deepseek-v3")
    rng = numpy_rng("routing", seed, tokens, config.n_routed_experts)
    experts, groups, top = config.n_routed_experts, config.n_group, config.num_experts_per_tok
    scores_TE = rng.random((tokens, experts)) + skew * rng.standard_normal(experts)
    if groups > 1:
        grouped_TGE = scores_TE.reshape(tokens, groups, experts // groups)
        best_TG = np.sort(grouped_TGE, axis=2)[:, :, -2:].sum(axis=2)
        dropped_TG = np.argsort(best_TG, axis=1)[:, : groups - config.topk_group]
        np.put_along_axis(grouped_TGE, dropped_TG[:, :, None], -np.inf, axis=1)
    return np.argpartition(-scores_TE, top, axis=1)[:, :top].astype(np.int64)


def exchange(
    config: ModelConfig,
    hardware: Hardware,
    ep: int,
    tokens: int,
    *,
    fp8: bool = True,
    drawn: int = 256,
    seed: int = 0,
    skew: float = 0.0,
    efficiency: Efficiency | None = None,
) -> Exchange:
    """One expert layer when each of `ep` devices brings `tokens` tokens; `drawn` of them are drawn and scaled up.

    A token crosses once to each node it needs and is handed on inside it (V3 s3.2.2), FP8 out and BF16 back.
    """
    if config.n_routed_experts % ep:
        raise ConfigError(f"{ep} devices do not divide {config.n_routed_experts} experts evenly")
    drawn = min(drawn, tokens)
    experts_TK = route(config, ep * drawn, seed, skew)
    home_T = np.arange(ep * drawn) // drawn
    device_TK = experts_TK // (config.n_routed_experts // ep)
    node_TK, own_T = device_TK // hardware.per_node, home_T // hardware.per_node
    nodes = max(1, -(-ep // hardware.per_node))
    visits_TN = np.zeros((ep * drawn, nodes), dtype=bool)
    np.put_along_axis(visits_TN, node_TK, True, axis=1)
    visits_TN[np.arange(ep * drawn), own_T] = False
    away_T = visits_TN.sum(axis=1)
    # inside a node: from the device that shares the sender's place there (or the sender itself) to the expert's device
    relay_TK = node_TK * hardware.per_node + (home_T % hardware.per_node)[:, None]
    handed_TK = relay_TK != device_TK
    between_D = np.bincount(home_T, weights=away_T, minlength=ep).astype(np.int64)
    inside_D = np.bincount(relay_TK[handed_TK], minlength=ep).astype(np.int64)
    visits_D = np.bincount(device_TK.ravel(), minlength=ep).astype(np.int64)
    e = efficiency or Efficiency()
    there_and_back = config.hidden_size * ((1 if fp8 else 2) + 2) * tokens / drawn / e.link
    slowest = max(between_D.max() / hardware.network_bandwidth, inside_D.max() / hardware.link_bandwidth)
    return Exchange(float(away_T.mean()), visits_D, between_D, inside_D, float(slowest * there_and_back))


@dataclass(frozen=True)
class Gathered:
    """An FSDP step: wall clock, and seconds the compute stream waited for weights or at the end for gradients."""

    seconds: float
    exposed: float


def fsdp(
    layers: int, gather: float, forward: float, backward: float, reduce: float, *, ahead: int = 1, again: bool = True
) -> Gathered:
    """Two streams, one that computes and one that moves: weights come `ahead` layers early, gradients leave late.

    `again`: weights are dropped after the forward pass and gathered once more for the backward pass (ZeRO-3).
    """
    if layers < 1 or min(gather, forward, backward, reduce) < 0 or ahead < 0:
        raise ConfigError("fsdp: layers and times are not below zero")
    moving = computing = 0.0
    work = [(forward, 0.0, True)] * layers + [(backward, reduce, again)] * layers
    ends: list[float] = []
    for number, (length, after, needs_weights) in enumerate(work):
        if needs_weights:  # a buffer frees when the layer `ahead + 1` before is done
            free = ends[number - ahead - 1] if number > ahead else 0.0
            moving = max(moving, free) + gather
            computing = max(computing, moving)
        computing += length
        ends.append(computing)
        if after:
            moving = max(moving, computing) + after
    seconds = max(moving, computing)
    return Gathered(seconds, seconds - layers * (forward + backward))
