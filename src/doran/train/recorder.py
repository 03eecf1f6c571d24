"""The flight recorder: every completion of every step, on disk, to be read back by `doran rollouts`.

    out_dir/rollouts/step_00000012.jsonl (or .parquet)

One file a step, written beside and renamed; a continued run writes the same file again. Rows are plain data; what a
person sees of them is the command line's.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from doran.base.errors import ArtifactError, ConfigError
from doran.base.files import write_atomic
from doran.base.runlog import read_metrics
from doran.train.samples import Dialect, Rollout, Sample, item_key

FOLDER = "rollouts"


class Recorder:
    """Writes one file a step into out_dir/rollouts."""

    def __init__(self, out_dir: Path, kind: str, dialect: Dialect) -> None:
        if kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
            raise ConfigError("record=parquet needs pyarrow", hint="pip install 'doran[data]', or set record=jsonl")
        self.folder, self.kind, self.dialect = Path(out_dir) / FOLDER, kind, dialect
        self.folder.mkdir(parents=True, exist_ok=True)

    def truncate_after(self, step: int) -> None:
        """Forget the steps that will be made again."""
        for number, path in recorded(self.folder):
            if number > step:
                path.unlink()

    def write(self, step: int, rollout: Rollout) -> None:
        """Record a step; groups in the order they were sampled, replayed ones last."""
        learnt = {id(x) for x in (*rollout.kept, *rollout.replayed)}
        samples = (*rollout.samples, *rollout.replayed)
        rows = [row(step, x, self.dialect, id(x) in learnt) for x in samples]
        if any(x.exact_logprobs is not None for x in samples):  # with every row: a table has one set of columns
            rows = [{**r, "exact_logprobs": x.exact_logprobs} for r, x in zip(rows, samples, strict=True)]
        path = self.folder / f"step_{step:08d}.{self.kind}"
        if self.kind == "jsonl":
            write_atomic(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        else:
            _write_parquet(path, rows)


def row(step: int, x: Sample, dialect: Dialect, learnt: bool) -> dict[str, Any]:
    """One completion: what was asked and said, how it was judged, what it teaches, how sure the sampler was."""
    return {
        "step": step,
        "group": x.group,
        "key": item_key(x.item) if x.item is not None else None,
        "prompt": dialect.decode(x.prompt_ids),
        "completion": x.text,
        "finish_reason": x.completion.finish_reason,
        "length": x.length,
        "reward": x.reward,
        "rewards": x.rewards,
        "advantage": x.advantage,
        "learnt": learnt,
        "age": x.age,
        "fault": x.fault,
        "token_ids": x.completion.token_ids,
        "logprobs": [round(p, 5) for p in x.completion.logprobs],
        "own": x.mask,
    }


def recorded(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of every recorded step, oldest first."""
    files = [p for p in folder.glob("step_*") if p.suffix in (".jsonl", ".parquet") and p.stem[5:].isdigit()]
    return sorted((int(p.stem[5:]), p) for p in files)


def read_step(path: Path) -> list[dict[str, Any]]:
    """The rows of one recorded step, in order. ArtifactError where the file cannot be read."""
    if path.suffix == ".jsonl":
        return read_metrics(path)
    try:
        import pyarrow.parquet as pq

        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except ImportError:
        raise ArtifactError(f"{path} is Parquet, which needs pyarrow", hint="pip install 'doran[data]'") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", hint="delete it; the other steps stay") from None
    for r in rows:
        r["rewards"] = json.loads(r["rewards"])
    return rows


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([{**r, "rewards": json.dumps(r["rewards"])} for r in rows])
    beside = path.with_name(f".writing-{path.name}")
    pq.write_table(table, beside, compression="zstd")
    os.replace(beside, path)
