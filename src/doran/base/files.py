"""Files that are whole or absent: written beside, fsynced, renamed. Not a checkpoint format and no locking.

After `write_atomic` returns, the new content survives a power cut; before that, the old content does. A full disk or a
folder without write permission is a `DoranError` that names the path and the mend.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from doran.base.errors import ArtifactError, DoranError

StrPath = str | os.PathLike[str]


def write_atomic(path: StrPath, data: bytes | str) -> None:
    """Replace `path` by `data` in one step; text is UTF-8. Missing parent folders are made.

    Raises DoranError on a full disk, a read-only folder or a name that is a folder; then `path` is as it was before.
    """
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: StrPath) -> Iterator[BinaryIO]:
    """`write_atomic` for content that comes in pieces: a file to write to, which becomes `path` when the block ends.

    Raises as write_atomic; where the block raises, `path` is as it was before.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
        fsync_folder(path.parent)


def write_json(path: StrPath, value: Any) -> None:
    """`write_atomic` of `value` as indented UTF-8 JSON; NaN and infinity are refused, since they are not JSON."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: StrPath) -> Any:
    """The value in a JSON file. Raises ArtifactError, naming file and line, when it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file", hint="check the folder name") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path}: not valid JSON ({error})", hint="the file may be cut short: copy it again"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})", hint="check its permissions") from None


def sha256_file(path: StrPath) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(path: StrPath) -> None:
    """Make the names in a folder durable: a rename is only safe once its folder is synced."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_file(path: StrPath) -> None:
    """Make the content of a file written by somebody else (safetensors, tokenizers) durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_errors(path: StrPath) -> Iterator[None]:
    """Turn the OSErrors that a user can mend into DoranErrors naming `path`; use it around any other way of writing."""
    try:
        yield
    except OSError as error:
        mend = _MENDS.get(error.errno or 0)
        if mend is None:
            raise DoranError(f"{path}: cannot be written ({error.strerror or error})", hint="check the path") from error
        what, hint = mend
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what += _space_left(Path(path))
        raise DoranError(f"{path}: {what}", hint=hint) from error


_MENDS = {
    errno.ENOSPC: ("the disk is full", "free some space, then run the same command again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, then run the same command again"),
    errno.EFBIG: (
        "the file is larger than this disk or limit allows",
        "raise the limit (ulimit -f) or choose another disk",
    ),
    errno.EACCES: ("no permission to write here", "choose another folder, or change its permissions"),
    errno.EPERM: ("no permission to write here", "choose another folder, or change its permissions"),
    errno.EROFS: ("this file system is read-only", "choose a folder on another disk"),
    errno.ENOTDIR: ("a part of this path is a file, not a folder", "choose another folder"),
    errno.EISDIR: ("this is a folder, not a file", "choose another name"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name"),
}


def _space_left(path: Path) -> str:
    for folder in path.absolute().parents:
        with suppress(OSError):
            return f" ({shutil.disk_usage(folder).free / 2**20:,.0f} MiB left)"
    return ""
