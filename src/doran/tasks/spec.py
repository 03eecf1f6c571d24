"""Options at the end of a reward's spec: `NAME:ARGUMENT?key=value&key=value`. Knows no reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from doran.base.errors import ConfigError, suggest


def options_of(spec: str, defaults: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(spec without options, options over their defaults). Numbers must be above 0; ConfigError names what is wrong."""
    base, _, query = spec.partition("?")
    options = dict(defaults)
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in defaults:
            raise ConfigError(f"reward {spec!r}: no option {key}", hint=suggest(key, defaults))
        if not isinstance(defaults[key], float):
            options[key] = text
            continue
        try:
            options[key] = float(text)
        except ValueError:
            options[key] = -1.0
        if not 0 < options[key] < float("inf"):
            raise ConfigError(f"reward {spec!r}: {key} is {text!r}", hint="give a number above 0")
    return base, options
