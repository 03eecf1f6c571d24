"""Hardware profiles by name: the shipped ones (profiles/*.yaml), the user's own files, and the one doctor saved.

Not here: what the figures mean (hardware.py) and what an hour costs (prices.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from doran.base.config import load_yaml
from doran.base.errors import ConfigError, suggest
from doran.base.files import write_atomic
from doran.plan.hardware import Hardware

FOLDER = Path(__file__).parent / "profiles"
HERE = "this"  # the machine that `doran doctor --save` measured


def settings_folder() -> Path:
    """Where a user's own profile and prices are kept: $XDG_CONFIG_HOME/doran, else ~/.config/doran."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "doran"


def shipped() -> list[str]:
    """Names of the profiles that come with doran."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "prices")


@cache
def _shipped(name: str) -> Hardware:
    return read_profile(FOLDER / f"{name}.yaml")


def find_hardware(name: str) -> Hardware:
    """A profile by shipped name (h800), `this`, or a path to a YAML file; ConfigError where there is none."""
    if name == HERE:
        saved = settings_folder() / "hardware.yaml"
        if not saved.exists():
            raise ConfigError("this machine was not measured yet", hint="run `doran doctor --save`, or name a profile")
        return read_profile(saved)
    key = name.lower().replace(" ", "-")
    if key in shipped():
        return _shipped(key)
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return read_profile(Path(name))
    raise ConfigError(f"unknown hardware {name!r}", hint=f"{suggest(key, [*shipped(), HERE])}; or give a YAML file")


def read_profile(path: Path) -> Hardware:
    """The profile in a YAML file; the file's name is its slug unless it says another."""
    values: Mapping[str, Any] = load_yaml(path)
    return Hardware.from_profile({"slug": path.stem, **values}, where=str(path))


def save_profile(hardware: Hardware, path: Path | None = None) -> Path:
    """Write a profile where `this` is looked for (or to `path`) and return that place."""
    path = path or settings_folder() / "hardware.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, yaml.safe_dump(hardware.to_profile(), sort_keys=False, allow_unicode=True))
    return path
