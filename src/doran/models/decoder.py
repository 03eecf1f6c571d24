"""The decoder: one definition for training, rollout and serving. Packed tokens, no batch axis; families differ in
parts.

T tokens of all sequences in a row, D hidden_size, V vocab_size, N chosen rows. Parameter names are the checkpoint's
(`model.layers.3.self_attn.o_proj.weight`); routed experts alone are stacked in memory (layers/moe.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from doran.arch.config import ModelConfig
from doran.layers.attention import Attend
from doran.layers.expert_cache import ExpertCache
from doran.layers.moe import RouterStats
from doran.layers.norm import RMSNorm
from doran.layers.rope import Rope
from doran.models.block import DecoderLayer, MakeParts
from doran.models.mtp import MTPBlock


class Trunk(nn.Module):
    """Embedding, layers, final norm: everything the checkpoint calls `model.`; MTP blocks follow the last layer."""

    def __init__(self, config: ModelConfig, make_parts: MakeParts) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        count = config.num_hidden_layers
        self.layers = nn.ModuleList(DecoderLayer(config, *make_parts(config, i)) for i in range(count))
        self.layers.extend(
            MTPBlock(config, *make_parts(config, count + i)) for i in range(config.num_nextn_predict_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """A language model of any family; `build` (models/families.py) makes one from a config."""

    def __init__(self, config: ModelConfig, make_parts: MakeParts) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config, make_parts)
        self.lm_head = (
            None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.rope = Rope(config)
        self.activation_checkpointing = False  # backward computes each layer again from its input (Chen 1604.06174)
        self.quantized = False  # some matrices are packed (models/packed.py) or on disk: no training, no saving
        self.expert_cache: ExpertCache | None = None  # routed experts are read from disk (models/streamed.py)
        self.step_form: object | None = None  # of a quantised model: what native steps use (engine/quant_panels.py)
        self.tied_head: nn.Module | None = None  # the packed form of a tied embedding, for `logits`

    @property
    def has_mtp(self) -> bool:
        """Whether there is a module that predicts the token after the next."""
        return self.config.num_nextn_predict_layers > 0

    @property
    def dtype(self) -> torch.dtype:
        """Of the residual stream where autocast is off."""
        table = self.model.embed_tokens
        return table.weight.dtype if isinstance(table, nn.Embedding) else table.dtype

    def forward(
        self, tokens_T: Tensor, positions_T: Tensor, attend: Attend, stats: RouterStats | None = None
    ) -> Tensor:
        """Hidden states after the final norm, (T, D)."""
        if stats is not None:
            stats.begin(getattr(attend, "cu_seqlens", None))
        rope = self.rope.table(positions_T)
        h_TD = _autocast(self.model.embed_tokens(tokens_T))
        for layer in self.model.layers[: self.config.num_hidden_layers]:
            h_TD = self._call(layer, stats, h_TD, rope, attend)
        return self.model.norm(h_TD)

    def logits(self, h_ND: Tensor) -> Tensor:
        """Scores of the next token, (N, V), for the rows the caller chose."""
        head = self.lm_head if self.lm_head is not None else self.tied_head
        return F.linear(h_ND, self.model.embed_tokens.weight) if head is None else head(h_ND)

    def mtp(
        self,
        h_TD: Tensor,
        next_tokens_T: Tensor,
        positions_T: Tensor,
        attend: Attend,
        stats: RouterStats | None = None,
        depth: int = 0,
    ) -> Tensor:
        """MTP module `depth` (DeepSeek-V3 s2.2): from the state at t (after the final norm, or after module depth - 1)
        and token t+1 to a state (T, D) whose `logits` predict t+2."""
        block = self.model.layers[self.config.num_hidden_layers + depth]
        embedding_TD = _autocast(self.model.embed_tokens(next_tokens_T))
        assert isinstance(block, MTPBlock)
        return self._call(block.predict, stats, h_TD, embedding_TD, self.rope.table(positions_T), attend)

    def _call(self, run: Callable[..., Tensor], stats: RouterStats | None, *inputs: object) -> Tensor:
        """`run(*inputs, stats)`; with activation checkpointing only inputs wait for the backward pass. Same bits."""
        if not (self.activation_checkpointing and torch.is_grad_enabled()):
            return run(*inputs, stats)
        known = None if stats is None else stats.cu_seqlens
        made: Tensor = checkpoint(
            run, *inputs, stats, use_reentrant=False, preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), nullcontext() if stats is None else stats.again(known)),
        )  # fmt: skip
        return made


def _autocast(x: Tensor) -> Tensor:
    """The residual stream runs in autocast's dtype where autocast is on: half the memory traffic of fp32."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


@torch.no_grad()
def initialize(model: Decoder, seed: int) -> None:
    """Normal(0, initializer_range) for matrices and embeddings, ones for norms, zeros for biases; reproducible."""
    generator = torch.Generator().manual_seed(seed)
    std = model.config.initializer_range
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name.split(".")[-2]:
            parameter.fill_(1.0)
        else:
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
    for name, buffer in model.named_buffers():
        assert name.endswith("e_score_correction_bias")
        buffer.zero_()
