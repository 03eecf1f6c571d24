"""receipt.json: what a stage cost and what it was made of. Counted and measured; what is estimated says so."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from doran import __version__
from doran.arch.config import load_config
from doran.base.device import machine, matmul_peak, peak_rss
from doran.base.files import read_json, sha256_file, write_json
from doran.base.runlog import read_metrics
from doran.plan.kernels import forward_flops
from doran.plan.meter import Meter, Spent

PHASES = ("time/sample", "time/score", "time/update")
OUTPUTS = ("model/*.safetensors", "model/config.json", "model/tokenizer.json", "samples.jsonl", "results/*/*.json")

MODEL_FILES = ("*.safetensors", "config.json", "tokenizer.json")


def write_receipt(
    folder: Path,
    stage: str,
    spent: Spent,
    seed: int,
    notes: Mapping[str, Any],
    meter: Meter,
    inputs: Mapping[str, Path],
) -> dict[str, Any]:
    """Collect and write the receipt of a finished stage; returns it. `inputs`: what it read (stages, models, files)."""
    rows = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    weights = sorted((folder / "model").glob("*.safetensors")) if (folder / "model").exists() else []
    flops = counted_flops(folder, rows)
    usd = meter.usd(spent)
    outputs = {str(f.relative_to(folder)): sha256_file(f) for glob in OUTPUTS for f in sorted(folder.glob(glob))}
    receipt = {
        "stage": stage,
        "seconds": round(spent.seconds, 2),
        "steps": rows[-1]["step"] if rows else None,
        "tokens": sum(int(r.get("tokens", 0)) for r in rows) or None,
        "flops": flops,
        "mfu": _mean([r["mfu"] for r in rows if "mfu" in r]) or _share(flops, rows),
        "seconds_by_phase": phases(rows, spent.seconds),
        "parameters": _parameters(weights),
        "peak_memory_bytes": peak_rss(),
        "energy": {
            "joules": round(spent.joules, 1),
            "kwh_at_the_socket": meter.kwh(spent),
            "how": "measured (RAPL)" if spent.measured else f"estimated: {meter.hardware.watts:g} W x seconds",
        },
        "money": {
            "usd": usd,
            "krw": meter.prices.krw(usd),
            "krw_per_usd": meter.prices.krw_per_usd,
            "hardware": meter.hardware.slug,
        },
        "seed": seed,
        "threads": torch.get_num_threads(),
        "versions": {"doran": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": machine(),
        "inputs_sha256": {name: made_by(path) for name, path in inputs.items()},
        "outputs_sha256": outputs,
        "weights_sha256": {w.name: outputs[str(w.relative_to(folder))] for w in weights},
        **notes,
    }
    write_json(folder / "receipt.json", receipt)
    return receipt


def phases(rows: list[dict[str, Any]], seconds: float) -> dict[str, float]:
    """Seconds sampling, scoring and updating (RL) or training, and the rest: loading, checkpoints, evaluation."""
    names = [k for k in PHASES if rows and k in rows[-1]]
    found = {k: round(sum(float(r[k]) for r in rows if k in r), 2) for k in names}
    if rows and not names:
        found["training"] = round(sum(float(r.get("step_time", 0)) for r in rows), 2)
    return {**found, "other": round(max(0.0, seconds - sum(found.values())), 2)}


def counted_flops(folder: Path, rows: list[dict[str, Any]]) -> float | None:
    """Model FLOPs of the logged steps: three forward passes a trained token, one a sampled one.

    The mean context is taken as half the mean length where the rows tell it, else as 64 tokens; MTP is not counted.
    """
    if not rows or not (folder / "model" / "config.json").exists():
        return None
    config = load_config(folder / "model")
    total = 0.0
    for row in rows:
        length = float(row.get("completions/mean_length") or 128)
        sampled = "time/sample" in row
        total += float(row.get("tokens", 0)) * forward_flops(config, length / 2) * (4 if sampled else 3)
    return total or None


def made_by(path: Path) -> dict[str, str]:
    """Hashes of an input: from its receipt where it is a stage that left one, else of the file or the model folder."""
    receipt = path / "receipt.json"
    if receipt.exists():
        found = read_json(receipt)
        return dict(found.get("outputs_sha256") or found.get("weights_sha256") or {})
    files = [path] if path.is_file() else [f for glob in MODEL_FILES for f in sorted(path.glob(glob))]
    return {file.name: sha256_file(file) for file in files}


def _share(flops: float | None, rows: list[dict[str, Any]]) -> float | None:
    """MFU where the rows do not hold it (RL): counted operations over the bfloat16 peak for the steps' time."""
    seconds = sum(float(r.get("step_time", 0)) for r in rows)
    return flops / seconds / matmul_peak("bfloat16") if flops and seconds else None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _parameters(weights: list[Path]) -> int | None:
    """Stored elements, from the files' headers."""
    from safetensors import safe_open

    total = 0
    for path in weights:
        with safe_open(path, framework="pt") as f:
            total += sum(int(torch.Size(f.get_slice(name).get_shape()).numel()) for name in f.keys())  # noqa: SIM118
    return total or None
