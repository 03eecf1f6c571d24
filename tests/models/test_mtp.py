"""The MTP module: order of its inputs, shared parts, and that it learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from doran.arch import presets
from doran.layers.attention import PackedAttend
from doran.models.decoder import Decoder
from doran.models.families import build

TOKENS = torch.arange(20) % 7


def _mtp(model: Decoder, h: Tensor) -> Tensor:
    return model.mtp(h, TOKENS.roll(-1), torch.arange(20), PackedAttend([0, 20]))


@torch.no_grad()
def test_eh_proj_takes_the_embedding_first() -> None:  # r1-facts 8.10
    model = build(presets.tiny(), seed=2)
    d, weight = model.config.hidden_size, model.model.layers[3].eh_proj.weight
    h, other = torch.randn(20, d), torch.randn(20, d)
    weight[:, d:] = 0  # the second half is the hidden state's: without it h must not matter
    assert torch.equal(_mtp(model, h), _mtp(model, other))
    weight[:, :d] = 0
    weight[:, d:] = torch.eye(d)
    assert not torch.allclose(_mtp(model, h), _mtp(model, other))


@torch.no_grad()
def test_transformers_mtp_module_agrees() -> None:
    pytest.importorskip("transformers")
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
    from transformers.modeling_layers import MtpLayer
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer, DeepseekV3RMSNorm

    ours = build(presets.tiny(first_k_dense_replace=4, n_routed_experts=8), seed=2)  # its MTP block is dense here
    keys = {k: v for k, v in ours.config.to_hf().items() if k != "architectures"}
    config = DeepseekV3Config(**{**keys, "num_hidden_layers": 4})
    config._attn_implementation = "eager"
    theirs = MtpLayer(config, DeepseekV3DecoderLayer, DeepseekV3RMSNorm, 0, True)
    held = dict(ours.model.layers[3].named_parameters())
    for name, parameter in theirs.named_parameters():
        parameter.copy_(held[name.removeprefix("mtp_block.").replace("post_norm", "shared_head.norm")])
    h, positions = torch.randn(20, 48), torch.arange(20)
    table = DeepseekV3ForCausalLM(config).model.rotary_emb(h, positions[None])
    mask = torch.full((20, 20), float("-inf")).triu(1)[None, None]
    embedding = ours.model.embed_tokens(TOKENS.roll(-1))[None]
    out = theirs(embedding, h[None], position_embeddings=table, attention_mask=mask,
                 position_ids=positions[None], cache=None)  # fmt: skip
    assert (out[0] - _mtp(ours, h)).abs().max() < 1e-4


def test_embedding_and_head_are_the_main_models() -> None:
    model = build(presets.tiny())
    assert not any("embed_tokens" in n or "head.weight" in n for n, _ in model.model.layers[3].named_parameters())
    h = model(TOKENS, torch.arange(20), PackedAttend([0, 20])).detach()
    model.logits(_mtp(model, h)).sum().backward()
    assert model.lm_head is not None and model.lm_head.weight.grad is not None
    assert model.model.embed_tokens.weight.grad is not None
    assert model.model.layers[0].mlp.gate_proj.weight.grad is None  # the state was detached


def test_it_learns_the_token_after_the_next() -> None:
    model = build(presets.tiny(num_hidden_layers=2, first_k_dense_replace=1), seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step() -> float:
        h = model(TOKENS, torch.arange(20), PackedAttend([0, 20]))
        loss = F.cross_entropy(model.logits(_mtp(model, h)[:-2]), TOKENS[2:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [step() for _ in range(25)]
    assert losses[-1] < 0.3 * losses[0]
