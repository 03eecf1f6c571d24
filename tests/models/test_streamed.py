"""Models whose experts stay on disk: bit for bit the logits and tokens of the model in memory, in bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from doran.arch.config import ModelConfig
from doran.arch.presets import tiny
from doran.base.errors import UsageError
from doran.engine.control import Controls
from doran.engine.engine import Engine
from doran.engine.request import SamplingParams
from doran.engine.runner import Runner
from doran.layers.attention import PackedAttend
from doran.models.decoder import Decoder
from doran.models.families import build
from doran.models.quantize import quantize_folder
from doran.models.streamed import load_streamed, resident_bytes
from doran.models.weights import load_model, save_model
from doran.native import quant

CONFIG = tiny(
    n_routed_experts=16, num_experts_per_tok=3, hidden_size=64, moe_intermediate_size=32, intermediate_size=64,
    q_lora_rank=32, kv_lora_rank=32, initializer_range=0.2, num_hidden_layers=4,
)  # fmt: skip
EXPERT = 3 * 64 * 32  # numbers in one expert
GREEDY = SamplingParams(20, temperature=0.0)
PROMPTS = [[1, 2, 3], [5, 6, 7, 8, 9, 10, 11, 12, 13]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in fp32 (sharded), FP8 blocks and int4 groups."""
    root = tmp_path_factory.mktemp("streamed")
    model = build(CONFIG, seed=1)
    save_model(model, root / "plain", max_shard_bytes=200_000)
    save_model(model, root / "fp8", quantize="fp8")
    quantize_folder(root / "plain", root / "int4", "int4")
    return root


@torch.no_grad()
def logits(model: Decoder, count: int = 40) -> torch.Tensor:
    tokens = (torch.arange(count) * 7) % CONFIG.vocab_size
    return model.logits(model(tokens, torch.arange(count), PackedAttend([0, count])))


def torch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both models by the same runner."""
    monkeypatch.setattr(
        "doran.engine.engine.make_runner",
        lambda model, cache, compute, budget, *_, **__: Runner(model, cache, compute, budget),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["plain", "fp8", "int4"])
def test_logits_and_greedy_tokens_are_those_of_the_model_in_memory(
    folders: Path, kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "int4" and not quant.available():
        pytest.skip("the kernels are not built")
    torch_only(monkeypatch)
    whole = load_model(folders / kind, dtype)
    streamed = load_streamed(folders / kind, 9 * EXPERT * (4 if kind == "plain" else 1), dtype)
    assert torch.equal(logits(whole), logits(streamed))
    for max_batch in (1, 8):
        a, b = (Engine(m, max_batch=max_batch).generate(PROMPTS, GREEDY, n=2) for m in (whole, streamed))
        assert a == b
    cache = streamed.expert_cache
    assert cache is not None and cache.num_slots < 20
    assert cache.work["decode"].tokens > 19 and 0 < cache.work["decode"].as_dict()["hit_rate"] < 1


def test_a_prompt_reads_each_expert_once_however_many_tokens_want_it(folders: Path) -> None:
    model = load_streamed(folders / "plain", 4 * EXPERT * 4)
    logits(model, 200)
    cache = model.expert_cache
    assert cache is not None
    assert cache.counts.misses == 3 * 16 and cache.counts.bytes_read == 3 * 16 * EXPERT * 4


def test_the_next_layers_experts_are_guessed(folders: Path) -> None:
    tokens = {}
    for read_ahead in (True, False):
        model = load_streamed(folders / "plain", 30 * EXPERT * 4, read_ahead=read_ahead)
        tokens[read_ahead] = Engine(model, max_batch=1).generate(PROMPTS[:1], GREEDY)
        assert model.expert_cache is not None
        assert (model.expert_cache.work["decode"].early > 0) == read_ahead
    assert tokens[True] == tokens[False]


def test_a_live_session_streams_as_well(folders: Path) -> None:
    model = load_streamed(folders / "fp8", 9 * EXPERT)
    whole = Engine(load_model(folders / "fp8")).generate(PROMPTS, GREEDY)
    live = Engine(model, max_batch=4).open()
    heard: list[list[int]] = [[], []]
    for prompt, tokens in zip(PROMPTS, heard, strict=True):
        live.submit(prompt, GREEDY, [Controls(watch=lambda token, tokens=tokens: tokens.append(token.id))])
    while live.busy:
        live.step()
    assert heard == [done[0].token_ids for done in whole]


def test_what_cannot_be_streamed_is_refused_in_one_line(folders: Path, tmp_path: Path) -> None:
    save_model(build(ModelConfig.from_hf(tiny("qwen2").to_hf())), tmp_path)
    with pytest.raises(UsageError, match="no experts"):
        load_streamed(tmp_path, 10**6)
    with pytest.raises(UsageError, match="too small"):
        load_streamed(folders / "plain", EXPERT)
    with pytest.raises(ValueError, match="cannot be saved"):
        save_model(load_streamed(folders / "plain", 10**6), tmp_path)


def test_resident_bytes_are_those_of_everything_but_the_experts(folders: Path) -> None:
    model = load_streamed(folders / "plain", 10**6)
    held = sum(t.numel() for t in (*model.parameters(), *model.buffers()))
    assert resident_bytes(folders / "plain", torch.float32) == 4 * held


MEASURE = """
import sys, torch
from doran.base.device import peak_rss
from doran.engine.engine import Engine
from doran.engine.request import SamplingParams
from doran.models.streamed import load_streamed
small, large, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
def run(folder):
    engine = Engine(load_streamed(folder, limit, torch.bfloat16), max_batch=1)
    return engine.generate([list(range(64))], SamplingParams(16, temperature=0.0))[0][0].token_ids
run(small)  # whatever libraries take once
before = peak_rss()
run(large)
print(peak_rss() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's accounts")
def test_a_model_much_larger_than_its_cache_stays_within_it(tmp_path: Path) -> None:
    shape = {"hidden_size": 256, "moe_intermediate_size": 512, "n_routed_experts": 64, "num_experts_per_tok": 4}
    for name, layers in (("small", 2), ("large", 4)):
        model = build(tiny(num_hidden_layers=layers, num_nextn_predict_layers=0, **shape), dtype=torch.bfloat16)
        save_model(model, tmp_path / name)
    experts, limit = 3 * 64 * 3 * 256 * 512 * 2, 12 * 2**20
    assert experts > 10 * limit
    command = [sys.executable, "-c", MEASURE, *(str(tmp_path / n) for n in ("small", "large")), str(limit)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True
    )
    assert int(done.stdout) < limit + 24 * 2**20, "one expert expanded, the layers and the allocator's slack"
