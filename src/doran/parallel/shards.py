"""A model's weights divided over the processes: every layer cut in shares (FSDP2), experts by number, and whole again.

`divide` changes the model it is given; from then on it trains as before, each process on its own tokens, while weights
travel when a layer needs them (or tokens, to where their expert is). Not divided: activations, rollouts.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from doran.base.errors import ConfigError
from doran.layers.lora import lora_layers
from doran.layers.moe import MoE
from doran.models.decoder import Decoder
from doran.models.families import empty
from doran.parallel.experts import DividedExperts
from doran.parallel.parts import whole
from doran.parallel.world import World


def divide(model: Decoder, world: World) -> Decoder:
    """Divide `model` as world.parallel says; every process gives the same one. ConfigError: it cannot be divided so."""
    if not world.shards:
        return model
    if lora_layers(model):
        raise ConfigError("LoRA and divided weights do not go together", hint="leave parallel.* out")
    mesh = init_device_mesh(next(model.parameters()).device.type, (world.size,))
    experts = _divide_experts(model, mesh, world) if world.parallel.experts == "shard" else set()
    if world.parallel.data == "fsdp":
        for layer in model.model.layers[: model.config.num_hidden_layers]:
            fully_shard(layer, mesh=mesh, ignored_params=experts)
        # The rest (embedding, head, MTP, last norm) stays whole from forward to backward: losses use it between.
        fully_shard(model, mesh=mesh, ignored_params=experts, reshard_after_forward=False)
        for module in model.modules():
            if isinstance(module, FSDPModule):  # a sum, not a mean: losses are divided by all processes' tokens
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
    return model


def _divide_experts(model: Decoder, mesh: DeviceMesh, world: World) -> set[nn.Parameter]:
    held: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, MoE):
            if model.config.n_routed_experts % world.size:
                raise ConfigError(
                    f"parallel.experts: {model.config.n_routed_experts} experts for {world.size} processes",
                    hint="start as many processes as divide the experts evenly",
                )
            module.experts = DividedExperts(module.experts, mesh)  # type: ignore[assignment]
            held |= set(module.experts.parameters())
    return held


def rest(model: nn.Module) -> None:
    """Let go of whole weights that a forward without a backward has left: they would be stale after an update."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def gathered(model: Decoder, into: Decoder | None = None) -> Decoder:
    """A plain model with the whole weights of a divided one, on every process. Collective."""
    rest(model)
    if into is None:
        into = empty(model.config, model.dtype).to_empty(device="cpu")
    held = into.state_dict()
    for name, t in model.state_dict().items():
        held[name].copy_(whole(t))
    return into
