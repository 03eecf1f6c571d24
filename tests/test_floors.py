"""The house rules that a machine can check: imports go down only, files stay short, every module says what it is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "doran"
MAX_LINES = 420

FLOORS = {
    0: ("base",),
    1: ("arch", "formats", "gpu", "native", "sandbox", "text"),
    2: ("layers",),
    3: ("models", "data", "tasks", "plan"),
    4: ("engine", "parallel"),
    5: ("evals", "serve"),
    6: ("train",),
    7: ("recipes",),
    8: ("cli",),
}
FLOOR_OF = {package: floor for floor, packages in FLOORS.items() for package in packages}
WITHOUT_TORCH = ("arch", "plan")

FILES = sorted(SOURCE.rglob("*.py"))
NAMES = [str(path.relative_to(SOURCE)) for path in FILES]


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of every import in a file, wherever it stands: top, function, `if TYPE_CHECKING`."""
    package = ("doran", *path.relative_to(SOURCE).parts[:-1])
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            # `from doran import base` names a package, `from doran.base import rng` a module: both forms count
            found += [(node.lineno, f"{module}.{alias.name}" if module == "doran" else module) for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            # a name put together at run time starts with a constant part, which is enough to see the package
            for text in (n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)):
                found.append((node.lineno, text))
    return found


def complaints(path: Path) -> list[str]:
    """One line for each import in `path` that goes up or sideways."""
    name = str(path.relative_to(SOURCE))
    here = path.relative_to(SOURCE).parts[0]
    if here == "__main__.py":
        here = "cli"
    bad = []
    for line, module in imports_of(path):
        top, _, rest = module.partition(".")
        there = rest.partition(".")[0]
        if top == "torch" and here in WITHOUT_TORCH:
            bad.append(f"{name}:{line}: {here}/ works without torch, but this imports {module}")
        if top != "doran" or there == here or there in ("", "__version__"):
            continue
        if here == "__init__.py":
            bad.append(f"{name}:{line}: doran/__init__.py imports nothing of doran, but this imports {module}")
        elif there not in FLOOR_OF:
            bad.append(
                f"{name}:{line}: imports {module}, which is on no floor (add it to FLOORS and to the design page)"
            )
        elif FLOOR_OF[there] == FLOOR_OF[here]:
            bad.append(f"{name}:{line}: {here}/ imports its sibling {there}/ on floor {FLOOR_OF[here]} ({module})")
        elif FLOOR_OF[there] > FLOOR_OF[here]:
            floors = f"{here}/ (floor {FLOOR_OF[here]}) imports up: {there}/ (floor {FLOOR_OF[there]}, {module})"
            bad.append(f"{name}:{line}: {floors}")
    return bad


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_go_down_only(path: Path) -> None:
    bad = complaints(path)
    assert not bad, "\n" + "\n".join(bad)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_file_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines; split it by subject (at most {MAX_LINES})"
    assert ast.get_docstring(ast.parse(text)), (
        f"{path.relative_to(SOURCE)} starts without a docstring saying what it is"
    )


def test_every_package_is_on_a_floor() -> None:
    packages = {path.parts[0] for path in (file.relative_to(SOURCE) for file in FILES) if len(path.parts) > 1}
    assert packages <= set(FLOOR_OF), f"on no floor: {sorted(packages - set(FLOOR_OF))}"


def test_floors_are_those_of_the_design_page() -> None:
    page = (ROOT / "docs" / "design" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)/` \|", page, flags=re.MULTILINE)
    assert {package: int(floor) for floor, package in rows} == FLOOR_OF


@pytest.mark.parametrize(
    ("where", "code", "word"),
    [
        ("text/a.py", "import doran.formats.fp8", "sibling"),
        ("text/a.py", "from doran.models import decoder", "imports up"),
        ("text/a.py", "from doran import train", "imports up"),
        ("text/a.py", "from ..layers import norm", "imports up"),
        ("text/a.py", "def f():\n    from doran.engine import Engine", "imports up"),
        ("text/a.py", "if TYPE_CHECKING:\n    from doran.cli.app import main", "imports up"),
        ("text/a.py", "importlib.import_module('doran.recipes.recipe')", "imports up"),
        ("text/a.py", "import doran.misc", "no floor"),
        ("plan/a.py", "def f():\n    import torch.nn as nn", "without torch"),
        (
            "text/a.py",
            "from doran.base import rng\nfrom . import parse\nfrom doran.text.parse import x\nimport torch",
            "",
        ),
    ],
)
def test_the_check_sees_each_kind_of_wrong_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, code: str, word: str
) -> None:
    monkeypatch.setattr(f"{__name__}.SOURCE", tmp_path)
    path = tmp_path / where
    path.parent.mkdir()
    path.write_text(code, encoding="utf-8")
    bad = complaints(path)
    assert bool(bad) == bool(word)
    assert all(word in line for line in bad)
