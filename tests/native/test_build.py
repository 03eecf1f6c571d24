"""Building kernels: what was read at import is what is compiled, and nobody ever sees half a library."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from doran.native import build

needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason="no compiler on this machine")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of one function, and an empty cache; the folder of the cache."""
    monkeypatch.setattr(build, "LIBRARIES", {"toy": ("toy.cpp",)})
    monkeypatch.setattr(build, "HEADERS", {"toy": ("toy.h",)})
    text = {"toy.cpp": b'#include "toy.h"\nextern "C" int seven() { return SEVEN; }', "toy.h": b"#define SEVEN 7\n"}
    monkeypatch.setattr(build, "SOURCES", text)
    monkeypatch.setenv("DORAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@needs_compiler
def test_the_sources_of_the_import_are_compiled_whatever_lies_on_disk(toy: Path) -> None:
    path = build.build("toy")
    assert ctypes.CDLL(str(path)).seven() == 7
    assert [p.name for p in toy.iterdir()] == [path.name]  # no leftovers


@needs_compiler
def test_other_sources_have_another_name(toy: Path) -> None:
    first = build.build("toy")
    build.SOURCES["toy.h"] = b"#define SEVEN 8\n"
    second = build.build("toy")
    assert first != second and ctypes.CDLL(str(second)).seven() == 8


@needs_compiler
def test_who_builds_at_the_same_moment_gets_a_whole_library(toy: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(build.build, ["toy"] * 4))
    assert len(set(paths)) == 1 and ctypes.CDLL(str(paths[0])).seven() == 7
    assert len(list(toy.iterdir())) == 1


@needs_compiler
def test_a_failed_build_is_one_line_and_leaves_nothing(toy: Path) -> None:
    build.SOURCES["toy.h"] = b"#define SEVEN no_such_thing\n"
    with pytest.raises(RuntimeError, match="no_such_thing"):
        build.build("toy")
    assert list(toy.iterdir()) == []


def test_every_source_is_in_the_copy() -> None:
    for name, files in build.LIBRARIES.items():
        assert {*files, *build.HEADERS[name]} <= build.SOURCES.keys()
