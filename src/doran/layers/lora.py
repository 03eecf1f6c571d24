"""LoRA (Hu et al. 2106.09685): y = W x + (alpha / r) B (A x), W frozen. The weights' names stay the checkpoint's.

`merged(model)` makes the model an ordinary one for a while, for the engine, exports and exact comparison: W + s B A
stands in W's place and afterwards the very same W stands there again, so nothing drifts. Not here: files
(formats/peft), stacked experts (they are no Linear), dropout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doran.base.errors import UsageError, suggest

PARTS = ("lora_A", "lora_B")
FEED_FORWARD = frozenset({"gate_proj", "up_proj", "down_proj"})


class LoraLinear(nn.Linear):
    """A Linear with `lora_A` (r, in) and `lora_B` (out, r) beside its frozen weight. B starts at 0: no change."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.scaling = alpha / rank
        bound = 1.0 / math.sqrt(base.in_features)  # kaiming_uniform with a = sqrt(5), as PEFT
        a = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(a.to(base.weight))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank).to(base.weight))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y = F.linear(x, self.weight, self.bias)
        if "lora_A" not in self._parameters:  # merged
            return y
        return y + F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scaling

    def whole_weight(self) -> Tensor:
        """W + s B A (out, in), with the gradients of A and B."""
        if "lora_A" not in self._parameters:
            return self.weight
        return self.weight + (self.lora_B @ self.lora_A) * self.scaling


def whole_weight(linear: nn.Module) -> Tensor:
    """The matrix a Linear multiplies with, adapter included: for layers that use the matrix itself (MLA)."""
    return linear.whole_weight() if isinstance(linear, LoraLinear) else linear.weight  # type: ignore[return-value]


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Adapted layers by module name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLinear)}


def add_lora(model: nn.Module, rank: int, alpha: float, targets: Sequence[str] = (), seed: int = 0) -> list[str]:
    """Freeze `model` and put adapters on its layers' Linears: all of them, or those whose last name is in `targets`.

    Returns the module names. Beside routed experts the feed-forward names are left out, since PEFT gives them to the
    experts' stacks as well. UsageError for a target that no layer has, and for such a name there.
    """
    found = {n: m for n, m in model.named_modules() if type(m) is nn.Linear and n.startswith("model.layers.")}
    known = sorted({name.rsplit(".", 1)[1] for name in found} - {"eh_proj"})
    for target in targets:
        if target not in known:
            raise UsageError(f"--lora-targets: no layer has {target!r}", hint=suggest(target, known))
    routed = any(name.endswith(".experts") for name, _ in model.named_modules())
    refused = sorted(FEED_FORWARD.intersection(targets)) if routed else []
    if refused:
        raise UsageError(
            f"--lora-targets: {refused[0]} beside routed experts: PEFT would adapt the experts under that name",
            hint=f"leave it out; {', '.join(sorted(set(known) - FEED_FORWARD))} can be adapted",
        )
    wanted = set(targets or known) - (FEED_FORWARD if routed else set())
    chosen = [name for name in found if name.rsplit(".", 1)[1] in wanted]
    wrap(model, chosen, rank, alpha, seed)
    return chosen


def wrap(model: nn.Module, names: Sequence[str], rank: int, alpha: float, seed: int = 0) -> None:
    """Freeze `model` and put an adapter on each Linear in `names` (full module names)."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        parent, _, last = name.rpartition(".")
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear)
        setattr(model.get_submodule(parent), last, LoraLinear(base, rank, alpha, generator))


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Inside, the adapted model is an ordinary one with W + s B A; without adapters nothing happens."""
    layers = list(lora_layers(model).values())
    kept = [(m._parameters["weight"], m._parameters["lora_A"], m._parameters["lora_B"]) for m in layers]
    for m in layers:
        whole = m.whole_weight().detach()
        m._parameters["weight"] = nn.Parameter(whole, requires_grad=False)
        for part in PARTS:
            del m._parameters[part]
    try:
        yield
    finally:
        for m, (weight, a, b) in zip(layers, kept, strict=True):
            m._parameters["weight"], m._parameters["lora_A"], m._parameters["lora_B"] = weight, a, b
