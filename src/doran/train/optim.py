"""AdamW and Muon behind one small object: step, clip, and state as named tensors (a checkpoint needs no pickle).

Muon (Keller Jordan 2024; Moonlight 2502.16982) takes the hidden matrices; embeddings, heads, router, norms and biases
stay with AdamW. Muon's update has an RMS of about 0.2, as AdamW's does, so one learning rate serves both to begin with.
Moments in 8 bits are next door (adamw8bit.py). Not here: sharding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from doran.base.config import StrictModel
from doran.base.errors import ArtifactError, ConfigError
from doran.parallel.parts import alike, by_kind, clip, is_divided, own, part_of, total_norm, whole
from doran.parallel.world import SOLO, World
from doran.train.adamw8bit import AdamW8bit

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Quintic coefficients: five rounds bring any singular value of (0, 1] to about 0.7..1.2 (Jordan 2024)."""


class OptimSettings(StrictModel):
    """What every trainer may say about its optimizer."""

    optimizer: Literal["adamw", "adamw8bit", "muon"] = Field(
        "adamw", description="adamw8bit: moments in a byte each; muon: Muon for hidden matrices, AdamW for the rest"
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    muon_lr: float | None = Field(None, gt=0, description="Muon's own peak rate; default: lr")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW first moment")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW second moment")
    eps: float = Field(1e-8, gt=0, description="AdamW epsilon")
    muon_momentum: float = Field(0.95, ge=0, lt=1, description="Muon's Nesterov momentum")
    weight_decay: float = Field(0.1, ge=0, description="decoupled, on tensors with two or more axes")
    grad_clip: float = Field(1.0, ge=0, description="global gradient norm; 0 switches clipping off")


def orthogonalise(g_BMN: Tensor, rounds: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Newton-Schulz: each of B matrices towards the nearest (semi-)orthogonal one, fp32. The work is on the short side.

    The rounds contract errors, so bfloat16 does (Jordan 2024); on CPUs that have it, it is 2 to 6 times as fast.
    """
    a, b, c = NEWTON_SCHULZ
    tall = g_BMN.shape[-2] > g_BMN.shape[-1]
    x = g_BMN.mT if tall else g_BMN
    x = (x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)).to(dtype)
    for _ in range(rounds):
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b G + c G^2
        x = torch.baddbmm(x, poly, x, beta=a)  # a X + (b G + c G^2) X
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; matrices of one shape go through Newton-Schulz in one batch, experts included."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[tuple(p.shape[-2:])].append(p)
            for (rows, cols), params in by_shape.items():
                self._update(params, group, 0.2 * max(rows, cols) ** 0.5)

    def _update(self, params: list[Tensor], group: dict[str, Any], scale: float) -> None:
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        buffers = [own(self.state[p]["momentum"]) for p in params]
        grads = [own(p.grad) for p in params if p.grad is not None]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, grads)
        nesterov = torch._foreach_add(grads, buffers, alpha=group["momentum"])
        # A divided stack lies in whole matrices, a divided matrix must be gathered: every process then turns it itself.
        matrices = [
            n if n.ndim == 3 else (whole(alike(p, n)) if is_divided(p) else n)[None] for n, p in zip(nesterov, params)
        ]
        updates = orthogonalise(torch.cat(matrices)).split([m.shape[0] for m in matrices])
        turned = [part_of(p, u[0]) if is_divided(p) and p.ndim == 2 else u for u, p in zip(updates, params)]
        here = [own(p) for p in params]
        torch._foreach_mul_(here, 1.0 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(here, [u.reshape(p.shape) for u, p in zip(turned, here)], alpha=-group["lr"] * scale)


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """True for what Muon trains: matrices between hidden states. Embeddings, heads and router touch discrete things."""
    discrete = ("embed_tokens", "lm_head", "shared_head.head", "mlp.gate.weight")
    return parameter.ndim in (2, 3) and not any(part in name for part in discrete)


class Optimizer:
    """AdamW and perhaps Muon over one model, with a common learning-rate factor.

    In a world of several processes gradients are added up first, so a loss must be divided by what all have together.
    """

    def __init__(
        self, parts: list[torch.optim.Optimizer], named: dict[str, nn.Parameter], grad_clip: float, world: World = SOLO
    ) -> None:
        self.parts, self.named, self.grad_clip, self.world = parts, named, grad_clip, world
        self.peaks = [[group["lr"] for group in part.param_groups] for part in parts]

    def step(self, lr_factor: float = 1.0) -> Tensor:
        """Clip, update, drop the gradients. Returns the gradient norm before clipping, NaN if any gradient is."""
        self.world.add_up_gradients([p for p in self.named.values() if not is_divided(p)])
        params = [p for p in self.named.values() if p.grad is not None]
        grads = [p.grad for p in params if p.grad is not None]
        norm = total_norm(grads, self.world) if self.world.shards else torch.nn.utils.get_total_norm(grads)
        if self.grad_clip and self.world.shards:
            clip(grads, self.grad_clip, norm)
        elif self.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(params, self.grad_clip, norm)
        for part, peaks in zip(self.parts, self.peaks):
            for group, peak in zip(part.param_groups, peaks):
                group["lr"] = peak * lr_factor
            part.step()
        self.zero_grad()
        return norm

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.named.values():
            p.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """All optimizer state as {"kind/parameter name": tensor}, ready for safetensors."""
        names: dict[Tensor, str] = {p: name for name, p in self.named.items()}
        return {
            f"{kind}/{names[p]}": value
            for part in self.parts
            for p, state in part.state.items()
            for kind, value in state.items()
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put `state_tensors()` back, exactly. ArtifactError where a tensor does not belong to this model."""
        owner = {p: part for part in self.parts for group in part.param_groups for p in group["params"]}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            if name not in self.named:
                raise ArtifactError(
                    f"the checkpoint has optimizer state for '{name}', which this model does not have",
                    hint="continue with the model that wrote it",
                )
            p = self.named[name]
            owner[p].state[p][kind] = value.clone()


def build_optimizer(model: nn.Module, settings: OptimSettings, world: World = SOLO) -> Optimizer:
    """The optimizer that `settings` describe, over all parameters of `model` that need a gradient, shared ones once."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    use_muon = settings.optimizer == "muon"
    muon = [p for name, p in named.items() if use_muon and is_hidden_matrix(name, p)]
    taken = {id(p) for p in muon}
    rest = [p for p in named.values() if id(p) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    parts: list[torch.optim.Optimizer] = []
    groups = [{**group, "params": some} for group in groups for some in by_kind(group["params"])]
    if world.shards and settings.optimizer == "adamw8bit":
        raise ConfigError("adamw8bit and divided weights do not go together", hint="set optimizer=adamw, or muon")
    if groups:
        betas = (settings.beta1, settings.beta2)
        if settings.optimizer == "adamw8bit":
            parts.append(AdamW8bit(groups, lr=settings.lr, betas=betas, eps=settings.eps))
        else:
            parts.append(torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=True))
    if muon:
        parts.append(Muon(muon, settings.muon_lr or settings.lr, settings.muon_momentum, settings.weight_decay))
    return Optimizer(parts, named, settings.grad_clip, world)
