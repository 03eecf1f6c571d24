"""GGUF files against llama.cpp itself: the same logits. Skips where no Python with llama_cpp is at hand.

`pip install llama-cpp-python` beside doran, or name another Python that has it in DORAN_LLAMA_PYTHON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from doran.arch.config import ModelConfig
from doran.arch.rope_scaling import RopeScaling
from doran.layers.attention import PackedAttend
from doran.models.export_gguf import export_gguf
from doran.models.families import build
from doran.models.weights import load_model, save_model

SMALL = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 256, "initializer_range": 0.1}  # fmt: skip
LATENT = ModelConfig(
    model_type="deepseek_v3", q_lora_rank=32, kv_lora_rank=32, qk_nope_head_dim=32, qk_rope_head_dim=32,
    v_head_dim=32, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, n_shared_experts=1,
    first_k_dense_replace=1, n_group=2, topk_group=1, routed_scaling_factor=1.5, **SMALL,
)  # fmt: skip
YARN = RopeScaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, mscale=1.0, mscale_all_dim=1.0)
LLAMA3 = RopeScaling(
    rope_type="llama3", factor=8.0, original_max_position_embeddings=64, low_freq_factor=1.0, high_freq_factor=4.0
)
LLAMA = ModelConfig(model_type="llama", num_key_value_heads=2, **SMALL)
CONFIGS = {
    "llama": LLAMA,
    "llama-stretched": replace(LLAMA, rope_scaling=LLAMA3),
    "qwen2": ModelConfig(model_type="qwen2", num_key_value_heads=2, tie_word_embeddings=True, **SMALL),
    "qwen3": ModelConfig(model_type="qwen3", num_key_value_heads=2, head_dim=32, **SMALL),
    "deepseek_v3": LATENT,
    "deepseek_v3-no-q-rank": replace(LATENT, q_lora_rank=None),
    "deepseek_v3-yarn": replace(LATENT, rope_scaling=YARN),
}
READER = """
import json, sys
import llama_cpp as L
path, tokens = sys.argv[1], json.loads(sys.argv[2])
L.llama_backend_init()
model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
params = L.llama_context_default_params()
params.n_ctx, params.n_threads, params.n_threads_batch = 64, 1, 1
params.type_k = params.type_v = 0
ctx = L.llama_init_from_model(model, params)
vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
batch = L.llama_batch_init(len(tokens), 0, 1)
batch.n_tokens = len(tokens)
for i, token in enumerate(tokens):
    batch.token[i], batch.pos[i], batch.seq_id[i][0], batch.n_seq_id[i], batch.logits[i] = token, i, 0, 1, 1
assert L.llama_decode(ctx, batch) == 0
print(json.dumps([[L.llama_get_logits_ith(ctx, i)[v] for v in range(vocab)] for i in range(len(tokens))]))
"""


@pytest.fixture(scope="module")
def llama_python() -> str:
    named = os.environ.get("DORAN_LLAMA_PYTHON")
    if named:
        return named
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed; name a Python that has it in DORAN_LLAMA_PYTHON")
    return sys.executable


@pytest.mark.parametrize("case", list(CONFIGS))
def test_llama_cpp_computes_the_same_logits(case: str, llama_python: str, tmp_path: Path) -> None:
    model = build(CONFIGS[case], seed=5)
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(value, 0.0, 0.1)
    save_model(model, tmp_path / "m")
    export_gguf(tmp_path / "m", tmp_path / "m.gguf", "f32")
    tokens = torch.randint(0, 96, (24,), generator=torch.Generator().manual_seed(1))
    command = [llama_python, "-c", READER, str(tmp_path / "m.gguf"), json.dumps(tokens.tolist())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    with torch.no_grad():
        model = load_model(tmp_path / "m")
        ours = model.logits(model(tokens, torch.arange(24), PackedAttend([0, 24])))
    assert (ours - theirs).abs().max() < 1e-2 * ours.std()  # llama.cpp rounds keys, values and SiLU's input to fp16
