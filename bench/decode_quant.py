"""Quantised inference: decode and prefill against llama.cpp (and ik_llama.cpp's), same bits a weight, random weights.

Two shapes: DeepSeek-R1-Distill-Qwen-1.5B's, and a 1.5B MLA+MoE (12 layers, d 1024, 64 experts of 512, 6 active, 2
shared). int4 is GGUF's Q4_0, int8 its Q8_0: the same codes in both programs. `share` is the bytes a decoded token reads
over seconds and the read bandwidth measured in the same process. A peer runs in its own process:

    python bench/decode_quant.py --shape dense --kind int4 --peer-python VENV/bin/python
"""

from __future__ import annotations

import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from shared import finish, parser, start

from doran.arch.config import ModelConfig
from doran.arch.count import quantized
from doran.arch.tensors import tensors
from doran.engine.native_runner import NativeRunner
from doran.engine.runner import Runner, make_runner
from doran.formats import quant
from doran.formats.quant import Stored
from doran.models.decoder import Decoder
from doran.models.export_gguf import write_gguf
from doran.models.packed import assemble
from doran.native.build import library
from doran.native.pages import fresh

SHAPES = {
    "dense": ModelConfig(
        model_type="qwen2", vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
        num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=4096, rope_theta=10000.0,
    ),
    "moe": ModelConfig(
        model_type="deepseek_v3", vocab_size=32000, hidden_size=1024, intermediate_size=4096, num_hidden_layers=12,
        num_attention_heads=16, q_lora_rank=512, kv_lora_rank=256, qk_nope_head_dim=64, qk_rope_head_dim=32,
        v_head_dim=64, n_routed_experts=64, num_experts_per_tok=6, moe_intermediate_size=512, n_shared_experts=2,
        first_k_dense_replace=1, max_position_embeddings=4096,
    ),
}  # fmt: skip
PEER = """
import json, sys, time, ctypes, statistics
import llama_cpp as L
path, prompt, steps, streams, threads, rounds = sys.argv[1], *map(int, sys.argv[2:])
L.llama_backend_init()
mp = L.llama_model_default_params(); mp.use_mmap = False
model = L.llama_model_load_from_file(path.encode(), mp)
cp = L.llama_context_default_params()
cp.n_ctx = streams * (prompt + steps + 8); cp.n_batch = cp.n_ubatch = max(512, prompt); cp.n_seq_max = streams
cp.n_threads = cp.n_threads_batch = threads; cp.no_perf = True
ctx = L.llama_init_from_model(model, cp)
memory = L.llama_get_memory(ctx)
def feed(batch, tokens, logits_last):
    batch.n_tokens = len(tokens)
    for i, (token, pos, seq) in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.seq_id[i][0], batch.n_seq_id[i] = token, pos, seq, 1
        batch.logits[i] = logits_last if i < len(tokens) - 1 else 1
    assert L.llama_decode(ctx, batch) == 0
batch = L.llama_batch_init(max(512, prompt, streams), 0, 1)
prefill, decode = [], []
for _ in range(rounds + 1):
    L.llama_memory_clear(memory, True)
    began = time.perf_counter(); feed(batch, [(7 + i % 1000, i, 0) for i in range(prompt)], 0)
    prefill.append(prompt / (time.perf_counter() - began))
    L.llama_memory_clear(memory, True)
    for s in range(streams): feed(batch, [(7 + i + s, i, s) for i in range(16)], 0)
    began = time.perf_counter()
    for t in range(steps): feed(batch, [(9 + t, 16 + t, s) for s in range(streams)], 1)
    decode.append(steps * streams / (time.perf_counter() - began))
print(json.dumps({"prefill": prefill[1:], "decode": decode[1:]}))
"""


class RandomSource:
    """Random codes in the shape of a quantised checkpoint; the sizes are what is measured."""

    is_quantized = True

    def __init__(self, config: ModelConfig, kind: str, head: str) -> None:
        self.config, self.kind, self.head = config, kind, head
        self.shapes = dict(tensors(config))
        self.matrices = {name for name, _ in quantized(config)}

    def get(self, name: str) -> torch.Tensor | Stored:
        """One tensor by the hub's name."""
        shape = self.shapes[name]
        ends = name in ("model.embed_tokens.weight", "lm_head.weight")
        if len(shape) == 1:
            return torch.ones(shape) if "norm" in name else torch.zeros(shape)
        if not ends and (name not in self.matrices or name.endswith("kv_b_proj.weight")):
            return torch.randn(shape).mul_(shape[1] ** -0.5)
        kind = self.head if ends else self.kind
        width = shape[1] // (1 if kind == "int8" else 2)
        codes = torch.randint(0, 256, (1 << 16,), dtype=torch.uint8).repeat(shape[0] * width // (1 << 16) + 1)
        codes = codes[: shape[0] * width].view(shape[0], width)
        step = shape[1] ** -0.5 / (73 if kind == "int8" else 4.6)
        scale = torch.full((shape[0], shape[1] // quant.GROUP), step, dtype=torch.float16)
        return Stored(kind, codes.view(torch.int8) if kind == "int8" else codes, shape[1], scale)


def bandwidth() -> float:
    """Bytes a second that all threads read of a gigabyte on large pages: the best of nine, for it is a limit."""
    big = fresh(1 << 30).fill_(1)
    read = library().read_words  # type: ignore[union-attr]
    words = ctypes.c_void_p(big.data_ptr()), ctypes.c_int64(big.numel() // 8)
    return big.numel() / min(timed(partial(read, *words)) for _ in range(9))


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def bytes_a_token(source: RandomSource) -> int:
    """What one decoded token reads of the weights: all but the embedding and the experts not chosen."""
    c, total = source.config, 0.0
    for name, shape in source.shapes.items():
        if name == "model.embed_tokens.weight":
            continue
        count = float(torch.Size(shape).numel())
        if ".experts." in name:
            count *= c.num_experts_per_tok / c.n_routed_experts
        kind = source.head if name == "lm_head.weight" else source.kind
        dense = len(shape) == 1 or name not in source.matrices and name != "lm_head.weight" or "kv_b_proj" in name
        total += count * (4 if dense else {"int8": 34 / 32, "int4": 18 / 32}[kind])
    return int(total)


def opened(model: Decoder, streams: int, length: int) -> Runner | NativeRunner:
    """A runner with room for `streams` sequences."""
    runner = make_runner(model, torch.bfloat16, None, 1 << 30, streams)
    if isinstance(runner, Runner):
        runner.resize(streams, 0, length, length)
    return runner


def ours(model: Decoder, prompt: int, steps: int, streams: int, rounds: int) -> dict[str, list[float]]:
    """Tokens a second of the engine's runner, in each round; the cache is bf16, as the peer's is fp16."""
    found: dict[str, list[float]] = {"prefill": [], "decode": []}
    tokens = [7 + i % 1000 for i in range(prompt)]
    for _ in range(rounds + 1):
        runner = opened(model, streams, prompt + steps)
        found["prefill"].append(prompt / timed(partial(runner.prefill, [tokens], [1], 0)))
        runner = opened(model, streams, prompt + steps)
        runner.prefill([tokens[:16]] * streams, [1] * streams, 0)

        def decode(runner: Runner | NativeRunner = runner) -> None:
            for step in range(steps):
                runner.decode(torch.full((streams,), 9 + step), torch.full((streams,), 16 + step)).argmax(-1)

        found["decode"].append(steps * streams / timed(decode))
    return {key: values[1:] for key, values in found.items()}


def main() -> None:
    """One row a shape, kind and number of streams."""
    made = parser(__doc__ or "")
    made.add_argument("--shape", choices=list(SHAPES), default="dense")
    made.add_argument("--kind", choices=["int8", "int4"], default="int4")
    made.add_argument("--head", choices=["int8", "int4"], default=None, help="format of embedding and head, as --kind")
    made.add_argument("--streams", type=int, default=1)
    made.add_argument("--prompt", type=int, default=512)
    made.add_argument("--steps", type=int, default=32)
    made.add_argument("--peer-python", default=None, help="a Python that has llama_cpp")
    made.add_argument("--gguf", type=Path, default=None, help="keep the peer's file here")
    args = made.parse_args()
    start(args)
    source = RandomSource(SHAPES[args.shape], args.kind, args.head or args.kind)
    model, limit = assemble(source, torch.float32), bandwidth()
    figures = {"doran": ours(model, args.prompt, args.steps, args.streams, args.rounds), "bandwidth": limit}
    del model
    if args.peer_python:
        with tempfile.TemporaryDirectory() as folder:
            file = args.gguf or Path(folder) / "random.gguf"
            if not file.exists():
                write_gguf(source, None, file, "auto")
            figures["peer"] = peer(args, file)
    share = bytes_a_token(source) * statistics.median(figures["doran"]["decode"]) / args.streams / limit
    rows = []
    for name in [n for n in ("doran", "peer") if n in figures]:
        medians = [statistics.median(figures[name][what]) for what in ("decode", "prefill")]
        note = f"{100 * share:.0f}% of {limit / 1e9:.1f} GB/s" if name == "doran" and args.streams == 1 else ""
        rows.append([args.shape, args.kind, str(args.streams), name, f"{medians[0]:.1f}", f"{medians[1]:.0f}", note])
    head = [
        "shape",
        "kind",
        "streams",
        "program",
        "decode tokens/s",
        "prefill tokens/s",
        "share of the bandwidth limit",
    ]
    finish(args, head, rows, figures)


def peer(args: Any, file: Path) -> dict[str, list[float]]:
    """The same loads in llama.cpp."""
    numbers = [args.prompt, args.steps, args.streams, torch.get_num_threads(), args.rounds]
    command = [args.peer_python, "-c", PEER, str(file), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"the peer failed: {done.stderr[-800:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
