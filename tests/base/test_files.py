"""Whole or absent files, and disk trouble in plain words."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from doran.base import files
from doran.base.errors import ArtifactError, DoranError


def test_write_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    files.write_atomic(path, "하나")
    files.write_atomic(path, b"two")
    assert path.read_bytes() == b"two" and os.listdir(path.parent) == ["a.txt"]


def test_json_round_trip_and_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"이름": [1, 2.5, None]})
    assert files.read_json(path) == {"이름": [1, 2.5, None]} and "이름" in path.read_text()
    assert files.sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError):
        files.write_json(path, float("nan"))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "cannot be written"),
    ],
)
def test_disk_trouble_names_the_path_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DoranError) as caught:
        files.write_atomic(path, "new")
    assert str(path) in str(caught.value) and words in str(caught.value) and caught.value.hint
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_real_full_disk_is_named() -> None:
    with pytest.raises(DoranError, match="/dev/full: the disk is full"), files.disk_errors("/dev/full"):
        with open("/dev/full", "w") as file:
            file.write("x" * 100)


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(DoranError, match="a/b"):
        files.write_atomic(tmp_path / "a" / "b", "x")
    with pytest.raises(DoranError, match="folder"):
        files.write_atomic(tmp_path, "x")


@pytest.mark.parametrize(
    ("content", "words"), [(None, "no such file"), (b'{"a": ', "not valid JSON"), (b"\xff", "not valid JSON")]
)
def test_unreadable_json_is_an_artifact_error(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=words):
        files.read_json(path)
