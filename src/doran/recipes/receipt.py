"""receipt.json: what a stage cost and what it was made of. Counted and measured, not estimated."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from doran import __version__
from doran.base.device import peak_rss
from doran.base.files import sha256_file, write_json
from doran.base.runlog import read_metrics


def write_receipt(folder: Path, stage: str, seconds: float, seed: int, notes: dict[str, Any]) -> dict[str, Any]:
    """Collect and write the receipt of a finished stage; returns it."""
    rows = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    weights = sorted((folder / "model").glob("*.safetensors")) if (folder / "model").exists() else []
    receipt = {
        "stage": stage,
        "seconds": round(seconds, 2),
        "steps": rows[-1]["step"] if rows else None,
        "tokens": sum(int(r.get("tokens", 0)) for r in rows) or None,
        "mfu": _mean([r["mfu"] for r in rows if "mfu" in r]),
        "seconds_by_phase": {
            k: round(sum(float(r[k]) for r in rows if k in r), 2)
            for k in ("time/sample", "time/score", "time/update")
            if rows and k in rows[-1]
        },
        "parameters": _parameters(weights),
        "peak_memory_bytes": peak_rss(),
        "seed": seed,
        "threads": torch.get_num_threads(),
        "versions": {"doran": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "weights_sha256": {w.name: sha256_file(w) for w in weights},
        **notes,
    }
    write_json(folder / "receipt.json", receipt)
    return receipt


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
