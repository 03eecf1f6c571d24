"""Experts on disk: measured decode of a random MoE of 1.4 GB with a small cache, beside what `doran plan` predicts.

The model (9 layers, d 1024, 64 experts of 512, 6 active, 1 shared) is written once to --folder. Every read drops its
pages again, so that the disk is measured and not the system's page cache. The prediction takes bandwidths measured in
the same process (the disk's on the model's own file) and the hit rate that was seen; `uniform` the one without it.

    python bench/from_disk.py --folder FOLDER --kind bf16 --cache 160M
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from shared import finish, parser, start

from doran.arch.config import ModelConfig
from doran.arch.tensors import tensors
from doran.base import device
from doran.base.files import write_json
from doran.cli.experts_cache import parse_size
from doran.engine.engine import Engine
from doran.engine.request import SamplingParams
from doran.formats.safetensors_folder import write_folder
from doran.models.quantize import quantize_folder
from doran.models.streamed import load_streamed
from doran.models.weights import load_model, save_model
from doran.plan.from_disk import FromDisk
from doran.plan.hardware import CPU, Hardware

CONFIG = ModelConfig(
    model_type="deepseek_v3", vocab_size=8192, hidden_size=1024, intermediate_size=4096, num_hidden_layers=8,
    num_attention_heads=16, q_lora_rank=512, kv_lora_rank=256, qk_nope_head_dim=64, qk_rope_head_dim=32,
    v_head_dim=64, n_routed_experts=64, num_experts_per_tok=6, moe_intermediate_size=512, n_shared_experts=1,
    n_group=8, topk_group=4, routed_scaling_factor=2.5, first_k_dense_replace=1, max_position_embeddings=4096,
    torch_dtype="bfloat16",
)  # fmt: skip
DTYPE = torch.bfloat16


def make(folder: Path, kind: str) -> Path:
    """The model's folder, written if it is not there."""
    plain, made = folder / "bf16", folder / kind
    if not (plain / "config.json").exists():
        noise = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)).mul_(0.03).to(DTYPE)
        write_folder(plain, ((name, _values(noise, i, shape)) for i, (name, shape) in enumerate(tensors(CONFIG))))
        write_json(plain / "config.json", CONFIG.to_hf())
    if not (made / "config.json").exists():
        if kind == "fp8":
            save_model(load_model(plain, DTYPE), made, quantize="fp8")
        else:
            quantize_folder(plain, made, kind)
    return made


def _values(noise_N: torch.Tensor, number: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Different numbers for each tensor, cheaply: another part of the noise."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=DTYPE)
    count = torch.Size(shape).numel()
    begin = number * 7919 % (len(noise_N) - count)
    return noise_N[begin : begin + count].view(shape)


def main() -> None:
    """One row a run."""
    made = parser(__doc__ or "")
    made.add_argument("--folder", type=Path, required=True, help="where the models are made and kept")
    made.add_argument("--kind", choices=["bf16", "fp8", "int8", "int4"], default="bf16")
    made.add_argument("--cache", default="160M")
    made.add_argument("--tokens", type=int, default=24)
    made.add_argument("--read-ahead", action="store_true", help="guess the next layer's experts")
    made.add_argument("--only-make", action="store_true", help="write the model and stop")
    args = made.parse_args()
    start(args)
    folder = make(args.folder, args.kind)
    if args.only_make:
        return
    figures = measure(args, folder)
    hardware = Hardware(
        memory_bandwidth=device.memory_bandwidth(), op_seconds=device.op_seconds(),
        disk_bandwidth=device.disk_bandwidth(folder),
    )  # fmt: skip
    plan = FromDisk(config=CONFIG, hardware=hardware, efficiency=CPU, cache=parse_size(args.cache), stored=args.kind)
    seen = replace(plan, hit_rate=figures["decode"]["hit_rate"])
    context = 32 + args.tokens / 2
    figures |= {"predicted": seen.facts(context), "uniform": plan.facts(context)}
    row = [
        args.kind, args.cache, "yes" if args.read_ahead else "no", f"{hardware.disk_bandwidth / 1e9:.2f}",
        f"{hardware.memory_bandwidth / 1e9:.1f}", f"{figures['decode']['hit_rate']:.2f} ({plan.hits:.2f})",
        f"{figures['decode']['bytes_read_per_token'] / 2**20:.0f}", f"{figures['tokens_per_second']:.2f}",
        f"{seen.tokens_per_second(context):.2f} to {seen.fastest(context):.2f}",
        f"{plan.tokens_per_second(context):.2f}", f"{figures['prefill_seconds']:.2f}",
    ]  # fmt: skip
    head = [
        "stored", "cache", "read ahead", "disk GB/s", "memory GB/s", "hit rate (uniform)", "MiB a token", "tokens/s",
        "predicted", "predicted, uniform", "prefill of 32 tokens, s",
    ]  # fmt: skip
    finish(args, head, [row], figures)


def measure(args: Any, folder: Path) -> dict[str, Any]:
    """Decode after a prompt of 32 tokens and a few to warm the cache: tokens a second, and what the cache counted."""
    model = load_streamed(folder, parse_size(args.cache), DTYPE, args.read_ahead, keep_pages=False)
    cache = model.expert_cache
    assert cache is not None
    stream = Engine(model, max_batch=1).stream(list(range(7, 39)), SamplingParams(8 + args.tokens, temperature=1.0))
    began = time.perf_counter()
    next(stream)
    prefill = time.perf_counter() - began
    for _ in range(6):
        next(stream)
    cache.work["decode"].__init__()  # type: ignore[misc]
    began = time.perf_counter()
    for _ in range(args.tokens):
        next(stream)
    seconds = time.perf_counter() - began
    counted = cache.work["decode"].as_dict()
    return {"prefill_seconds": prefill, "tokens_per_second": args.tokens / seconds, "decode": counted}


if __name__ == "__main__":
    main()
