"""The Triton kernels against their torch references: on a GPU where there is one, else by Triton's interpreter.

The interpreter is asked for in tests/conftest.py, before anything imports triton. `pip install triton` is enough.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from doran.gpu import available, fp8_matmul, grouped, mla_decode

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    """Up to the order of sums, and a rounding of the result in bf16."""
    assert one.shape == other.shape and one.dtype == other.dtype
    slack = 1e-5 if one.dtype == torch.float32 else 2e-2
    assert (one.float() - other.float()).abs().max() <= slack * other.float().abs().max()


def test_they_can_run_here() -> None:
    assert available()


@DTYPES
@pytest.mark.parametrize(("m", "n", "k"), [(1, 64, 128), (5, 200, 300), (70, 130, 256)])
def test_a_product_with_fp8_blocks_expands_them_as_the_reference_does(
    dtype: torch.dtype, m: int, n: int, k: int
) -> None:
    x, weight = randn(m, k).to(dtype), randn(n, k, seed=1).to(torch.float8_e4m3fn)
    scale = randn(-(-n // 128), -(-k // 128), seed=2).abs() + 0.1
    close(fp8_matmul.fp8_matmul(x, weight, scale), fp8_matmul.reference(x, weight, scale))


@DTYPES
@pytest.mark.parametrize(("heads", "rank", "rope"), [(4, 32, 16), (20, 24, 8)])
def test_paged_latent_attention_reads_each_sequences_own_pages(
    dtype: torch.dtype, heads: int, rank: int, rope: int
) -> None:
    lengths = torch.tensor([1, 16, 17, 50], dtype=torch.int32, device=DEVICE)
    pages = randn(20, 16, rank + rope).to(dtype)
    table = torch.randperm(20, generator=torch.Generator().manual_seed(3))[:16].view(4, 4).to(torch.int32).to(DEVICE)
    q = randn(4, heads, rank + rope, seed=4).to(dtype)
    args = (q, pages, table, lengths, rank, 0.3)
    close(mla_decode.mla_decode(*args), mla_decode.reference(*args))
    untouched = mla_decode.mla_decode(*args)
    pages[table[3, 3].long(), 2:] = 1e4  # behind the fourth sequence's 50 tokens
    assert torch.equal(mla_decode.mla_decode(*args), untouched)


@DTYPES
@pytest.mark.parametrize("sizes", [[3, 0, 1, 20], [0, 0, 0, 70], [1, 1, 1, 1], [0, 0, 0, 0]])
def test_each_group_of_rows_meets_its_own_expert(dtype: torch.dtype, sizes: list[int]) -> None:
    x, weight = randn(sum(sizes), 96).to(dtype), randn(4, 80, 96, seed=5).to(dtype)
    offsets = torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()])
    y, expected = grouped.grouped_matmul(x, weight, offsets), grouped.reference(x, weight, offsets)
    if sum(sizes):
        close(y, expected)
    assert y.shape == (sum(sizes), 80)
