"""Each native kernel against its torch reference, forward and forward with backward, at the recipe's shapes.

Microseconds a call, and how many times faster the kernel is. The reference is written to be obvious, not fast: for
whole training steps see train_speed.py. Needs a C++ compiler.

    python bench/kernels.py
    python bench/kernels.py --tokens 256 --rounds 2 --only rms_norm
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from shared import DTYPES, finish, parser, ratio, rounds, seconds, shape, start
from torch import Tensor

from doran.arch.config import ModelConfig
from doran.native import ops, reference
from doran.native.build import library

Inputs = tuple[Any, ...]


def main() -> None:
    """One row a kernel, dtype and direction."""
    made = parser(__doc__ or "")
    made.add_argument("--tokens", type=int, default=4096, help="tokens of a training step")
    made.add_argument("--rows", type=int, default=256, help="sequences of a decode step")
    made.add_argument("--calls", type=int, default=5, help="calls timed together in one round")
    made.add_argument("--only", choices=KERNELS, metavar="NAME", help="one kernel: " + ", ".join(KERNELS))
    args = made.parse_args()
    start(args)
    if library() is None:
        sys.exit("error: there are no native kernels to compare\nhint: install g++ and unset DORAN_NATIVE")
    config = shape(args.recipe, "deepseek_v3")
    rows, figures = [], {}
    for name, make in KERNELS.items():
        for dtype in DTYPES if args.only in (None, name) else ():
            inputs = make(args, config, DTYPES[dtype])
            for backward in (False, True) if any(map(wants_grad, inputs)) else (False,):
                found = compare(args, name, inputs, backward)
                way = "forward + backward" if backward else "forward"
                native, torch_us = (statistics.median(found["microseconds"][who]) for who in ("native", "torch"))
                rows.append([name, dtype, way, f"{native:,.0f}", f"{torch_us:,.0f}", f"{found['ratio']:.2f}"])
                figures[f"{name}/{dtype}/{way}"] = found
    finish(args, ["kernel", "dtype", "direction", "native us", "torch us", "ratio"], rows, figures)


def compare(args: argparse.Namespace, name: str, inputs: Inputs, backward: bool) -> dict[str, Any]:
    """Microseconds a call of the kernel and of its reference, in every round, and their ratio."""

    def timed(op: Callable[..., Any]) -> Callable[[], float]:
        call = with_backward(op, inputs) if backward else without_grad(op, inputs)
        return lambda: 1e6 * seconds(lambda: [call() for _ in range(args.calls)]) / args.calls

    times = rounds({"native": timed(getattr(ops, name)), "torch": timed(getattr(reference, name))}, args.rounds)
    return {"microseconds": times, "ratio": ratio(times["torch"], times["native"])}


def wants_grad(value: Any) -> bool:
    """Is this an input that the backward pass reaches?"""
    return isinstance(value, Tensor) and value.requires_grad


def without_grad(op: Callable[..., Any], inputs: Inputs) -> Callable[[], Any]:
    """The op alone."""

    def call() -> Any:
        with torch.no_grad():
            return op(*inputs)

    return call


def with_backward(op: Callable[..., Any], inputs: Inputs) -> Callable[[], Any]:
    """The op and the gradients of all its inputs, from a gradient of ones."""
    leaves = [value for value in inputs if wants_grad(value)]

    def call() -> Any:
        made = op(*inputs)
        out = made[0] if isinstance(made, tuple) else made
        return torch.autograd.grad(out, leaves, torch.ones_like(out))

    return call


def randn(*size: int, dtype: torch.dtype = torch.float32, grad: bool = True) -> Tensor:
    """Seeded noise."""
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(*size, generator=generator).to(dtype).requires_grad_(grad)


# --- inputs: (options, config, dtype) -> arguments of the op; shapes are named in native/reference.py ---------------


def _rms_norm(a: argparse.Namespace, c: ModelConfig, dtype: torch.dtype) -> Inputs:
    return randn(a.tokens, c.hidden_size, dtype=dtype), randn(c.hidden_size), 1e-6


def _rope(a: argparse.Namespace, c: ModelConfig, dtype: torch.dtype) -> Inputs:
    angle = randn(a.tokens, c.qk_rope_head_dim // 2, grad=False)
    return randn(a.tokens, c.num_attention_heads, c.qk_rope_head_dim, dtype=dtype), angle.cos(), angle.sin()


def _swiglu(a: argparse.Namespace, c: ModelConfig, dtype: torch.dtype) -> Inputs:
    return (randn(a.tokens, 2 * c.intermediate_size, dtype=dtype),)


def _routing(a: argparse.Namespace, c: ModelConfig) -> tuple[Tensor, Tensor, int]:
    """(order, inverse, k): experts drawn at random."""
    k = c.num_experts_per_tok
    experts = torch.randint(c.n_routed_experts, (a.tokens * k,), generator=torch.Generator().manual_seed(0))
    order = experts.argsort(stable=True)
    return order, order.argsort(), k


def _expert_gather(a: argparse.Namespace, c: ModelConfig, dtype: torch.dtype) -> Inputs:
    return randn(a.tokens, c.hidden_size, dtype=dtype), *_routing(a, c)


def _expert_combine(a: argparse.Namespace, c: ModelConfig, dtype: torch.dtype) -> Inputs:
    _, inverse, k = _routing(a, c)
    return randn(a.tokens * k, c.hidden_size, dtype=dtype), inverse, randn(a.tokens, k)


def _token_logprobs(a: argparse.Namespace, c: ModelConfig, dtype: torch.dtype) -> Inputs:
    target = torch.randint(c.vocab_size, (a.tokens,), generator=torch.Generator().manual_seed(0))
    return randn(a.tokens, c.vocab_size, dtype=dtype), target, 1.0


def _packed_attention(a: argparse.Namespace, c: ModelConfig, dtype: torch.dtype) -> Inputs:
    heads, rng, bounds = c.num_attention_heads, random.Random(0), [0]
    while bounds[-1] < a.tokens:
        bounds.append(min(a.tokens, bounds[-1] + rng.randint(30, 200)))
    nope, pe, value = c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim
    q1, q2 = randn(a.tokens, heads, nope, dtype=dtype), randn(a.tokens, heads, pe, dtype=dtype)
    k1, k2 = randn(a.tokens, heads, nope, dtype=dtype), randn(a.tokens, pe, dtype=dtype)
    return q1, q2, k1, k2, randn(a.tokens, heads, value, dtype=dtype), torch.tensor(bounds), 1 / math.sqrt(nope + pe)


def _mla_decode(a: argparse.Namespace, c: ModelConfig, dtype: torch.dtype) -> Inputs:
    width, capacity = c.kv_lora_rank + c.qk_rope_head_dim, 256
    q = randn(a.rows, c.num_attention_heads, width, dtype=dtype, grad=False)
    lens = torch.randint(30, capacity, (a.rows,), generator=torch.Generator().manual_seed(0))
    cache = randn(a.rows, capacity, width, dtype=dtype, grad=False)
    return q, cache, torch.arange(a.rows), lens, c.kv_lora_rank, 1 / math.sqrt(c.qk_nope_head_dim + c.qk_rope_head_dim)


KERNELS: dict[str, Callable[[argparse.Namespace, ModelConfig, torch.dtype], Inputs]] = {
    "rms_norm": _rms_norm,
    "rope": _rope,
    "swiglu": _swiglu,
    "expert_gather": _expert_gather,
    "expert_combine": _expert_combine,
    "token_logprobs": _token_logprobs,
    "packed_attention": _packed_attention,
    "mla_decode": _mla_decode,
}


if __name__ == "__main__":
    main()
