"""Rows of predictions beside published figures, all from one Efficiency with nothing fitted to a row.

`exact`: a count that must be equal. `gated`: a time or rate whose inputs are published, to be within 15%. `shown`: its
inputs are from memory or secondary sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from doran.arch import presets
from doran.arch.count import cache_bytes_per_token, parameters
from doran.plan.hardware import Efficiency
from doran.plan.jobs import Rl, Setup, grpo, train
from doran.plan.layout import Layout
from doran.plan.models import llama3_405b
from doran.plan.prices import Prices
from doran.plan.profiles import find_hardware
from doran.plan.serving import Serving

Rule = Literal["exact", "gated", "shown"]
WITHIN = 0.15
V3, INFRA, SGLANG = "DeepSeek-V3, arXiv 2412.19437", "DeepSeek open-infra-index, day 6", "SGLang blog, May 2025"
LLAMA, NATURE = "2407.21783 table 4", "R1 supplement (Nature 645), secondary"
DAY = "always full; published is a day's mean"
PRICES = Prices(
    krw_per_usd=1400.0, usd_per_kwh=0.11, rent={"h800": 2.0, "h100": 2.0}, where="2 USD an hour, as V3 table 1"
)
V3_LAYOUT = Layout(dp=128, pp=16, ep=64, zero=1, schedule="dualpipe", recompute="selective")
LLAMA_LAYOUT = Layout(dp=128, tp=8, pp=16, zero=1, schedule="interleaved", chunks=8, recompute="selective")


@dataclass(frozen=True)
class Row:
    """One published figure and what doran says. `note`: what the prediction assumes."""

    what: str
    published: float
    predicted: float
    unit: str
    rule: Rule
    source: str
    note: str = ""

    @property
    def error(self) -> float:
        """Predicted over published, less one."""
        return self.predicted / self.published - 1

    @property
    def holds(self) -> bool:
        """Whether the row keeps its rule; a row that is only shown always does."""
        if self.rule == "exact":
            return self.predicted == self.published
        return self.rule == "shown" or abs(self.error) <= WITHIN


def rows(efficiency: Efficiency | None = None) -> list[Row]:
    """All rows, in the order of the page."""
    e = efficiency or Efficiency()
    return [*_counts(), *_pretraining(e), *_r1(e), *_serving(e)]


def _counts() -> Iterator[Row]:
    v3 = presets.deepseek_v3()
    counts = parameters(v3)
    yield Row("DeepSeek-V3 parameters", 671_026_419_200, counts.total, "", "exact", "its checkpoint's tensors")
    yield Row("DeepSeek-V3 parameters, in billions", 671, round(counts.total / 1e9), "B", "exact", f"{V3} s1")
    without = (counts.active - counts.by_part["embedding"]) / 1e9
    yield Row(
        "DeepSeek-V3 active a token",
        37,
        round(without),
        "B",
        "exact",
        f"{V3} s1",
        f"{without:.2f}, embedding not counted",
    )
    caches = {"DeepSeek-V3": (v3, 70_272), "Qwen2.5-72B": (presets.qwen2_5("72b"), 327_680),
              "Llama-3.1-405B": (llama3_405b(), 516_096)}  # fmt: skip
    for name, (config, published) in caches.items():
        yield Row(f"{name} cache a token, bf16", published, cache_bytes_per_token(config, 2), "bytes", "exact",
                  "arXiv 2505.09343")  # fmt: skip


def _pretraining(e: Efficiency) -> Iterator[Row]:
    h800, h100 = find_hardware("h800"), find_hardware("h100")
    v3 = Setup(hardware=h800, prices=PRICES, layout=V3_LAYOUT, precision="fp8", given_efficiency=e)
    job = train("pretrain", presets.deepseek_v3(), v3, 14.8e12, 4096, 15360 * 4096)
    layout = "2,048 H800, PP16, EP64, ZeRO-1, DualPipe, FP8 as published"
    yield Row(
        "DeepSeek-V3, H800 hours a trillion tokens", 180e3, job.device_hours / 14.8, "h", "gated", f"{V3} s1", layout
    )
    yield Row(
        "DeepSeek-V3, H800 hours of pretraining",
        2664e3,
        job.device_hours,
        "h",
        "gated",
        f"{V3} table 1",
        "14.8T tokens",
    )
    extended = sum(_extension(v3, length, sequences) for length, sequences in ((32768, 1920), (131072, 480)))
    yield Row("DeepSeek-V3, H800 hours of context extension", 119e3, extended, "h", "gated", f"{V3} table 1",
              "1,000 steps each at 32K and 128K; the layout is not published, pretraining's is assumed")  # fmt: skip
    whole = (job.device_hours + extended) * 2 + 10e3
    yield Row(
        "DeepSeek-V3, all training",
        5.576e6,
        whole,
        "USD",
        "gated",
        f"{V3} table 1",
        "post-training's 10K USD as published",
    )
    llama = Setup(hardware=h100, prices=PRICES, layout=LLAMA_LAYOUT, given_efficiency=e)
    big = train("pretrain", llama3_405b(), llama, 15.6e12, 8192, 2048 * 8192)
    yield Row("Llama 3.1 405B, H100 hours", 30.84e6, big.device_hours, "h", "gated", "model card",
              "16,384 H100, TP8 PP16 DP128 (2407.21783 table 4), 15.6T tokens at 8K")  # fmt: skip
    mfu = 100 * big.mfu() / e.availability
    yield Row("Llama 3.1 405B, MFU on 16,384 H100", 41, mfu, "%", "gated", LLAMA,
              "while it trains; model FLOPs with causal attention")  # fmt: skip


def _extension(setup: Setup, length: int, sequences: int) -> float:
    """Device hours of 1,000 steps."""
    return train(
        "pretrain", presets.deepseek_v3(), setup, 1000.0 * length * sequences, length, length * sequences
    ).device_hours


def _r1(e: Efficiency) -> Iterator[Row]:
    """R1-Zero's steps, lengths and batch are from memory or secondary sources, so this gates nothing."""
    layout = Layout(dp=32, pp=16, ep=32, zero=1, schedule="dualpipe", recompute="full")
    setup = Setup(hardware=find_hardware("h800"), prices=PRICES, precision="fp8", layout=layout, given_efficiency=e)
    longest = 0.79 * 32768 + 0.21 * 65536  # the limit was raised at step 8,200 of 10,400
    rl = Rl(
        steps=10_400, samples_per_step=512, prompt_tokens=200, completion_tokens=6000, longest=longest, rollout=8192
    )
    job = grpo(presets.deepseek_v3(), setup, rl, drafts=True)
    yield Row("R1-Zero, H800 hours of RL", 101e3, job.device_hours, "h", "shown", NATURE,
              "10,400 steps of 512, mean of 6,000 tokens and longest at the limit assumed, MTP drafts")  # fmt: skip


def _serving(e: Efficiency) -> Iterator[Row]:
    v3, h800, h100 = presets.deepseek_v3(), find_hardware("h800"), find_hardware("h100")
    decode = Serving(config=v3, hardware=h800, devices=144, precision="fp8", efficiency=e)
    users = decode.users(4989, 21)
    rate = decode.decode(users, 4989) / 18
    yield Row("DeepSeek production, decode a node", 14.8e3, rate, "tokens/s", "gated", INFRA,
              f"EP144, 21 tokens/s a user, 4,989 keys, {users} users a GPU, {DAY}")  # fmt: skip
    prefill = Serving(config=v3, hardware=h800, devices=32, precision="fp8", efficiency=e)
    hit = 342 / 608
    rate = prefill.prefill(4000) / 4 / (1 - hit)
    yield Row("DeepSeek production, input a node", 73.7e3, rate, "tokens/s", "gated", INFRA,
              f"EP32, prompts of 4,000 assumed, 56.3% from the disk cache, {DAY}")  # fmt: skip
    sglang = Serving(config=v3, hardware=h100, devices=72, precision="fp8", efficiency=e)
    yield Row("SGLang on H100, decode a node", 22.3e3, sglang.decode(256, 2050) / 9, "tokens/s", "gated",
              SGLANG, "EP72, 256 users a GPU, prompts of 2,000")  # fmt: skip
    inputs = Serving(config=v3, hardware=h100, devices=32, precision="fp8", efficiency=e)
    yield Row("SGLang on H100, input a node", 52.3e3, inputs.prefill(2000) / 4, "tokens/s", "gated",
              SGLANG, "EP32, prompts of 2,000")  # fmt: skip
