"""JSON answers against a JSON Schema: the part of the standard that says what a value looks like.

Not here: $ref, $defs, formats, conditions (if, not, oneOf). A keyword that is not understood is refused when the schema
is loaded: ignoring it would pay for answers that break it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from doran.base.errors import ConfigError, suggest

MAX_DEPTH = 50
_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
_KEYWORDS = (
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "minItems", "maxItems",
    "minLength", "maxLength", "pattern", "minimum", "maximum", "anyOf",
)  # fmt: skip
_NOTES = ("$schema", "$id", "title", "description", "default", "examples")


def load_schema(path: Path) -> dict[str, Any]:
    """The schema in a file, checked. ConfigError names file and place."""
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="check the path of the schema") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})", hint="mend the schema") from None
    _check(schema, str(path), 0)
    return schema  # type: ignore[no-any-return]


def _check(schema: Any, where: str, depth: int) -> None:
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        raise ConfigError(f"{where}: a schema is a JSON object", hint='write {"type": "object", ...}')
    for key, value in schema.items():
        if key not in _KEYWORDS and key not in _NOTES:
            raise ConfigError(f"{where}: {key} is not supported; nothing was ignored", hint=suggest(key, _KEYWORDS))
        if key == "type" and not set(_listed(value)) <= {*_TYPES, "number", "integer"}:
            raise ConfigError(f"{where}: no type {value!r}", hint=suggest(str(value), [*_TYPES, "number", "integer"]))
        if key == "pattern":
            try:
                re.compile(value)
            except (re.error, TypeError) as error:
                raise ConfigError(f"{where}: pattern {value!r} ({error})", hint="mend the pattern") from None
    for name, inner in schema.get("properties", {}).items():
        _check(inner, f"{where}, {name}", depth + 1)
    for place, inner in enumerate(schema.get("anyOf", [])):
        _check(inner, f"{where}, anyOf {place}", depth + 1)
    for key in ("items", "additionalProperties"):
        if not isinstance(schema.get(key, True), bool):
            _check(schema[key], f"{where}, {key}", depth + 1)


def read_json_answer(text: str) -> tuple[bool, Any]:
    """(found, value): the text as JSON, or what its only ``` block holds."""
    pieces = text.split("```")
    if len(pieces) == 3:
        text = re.sub(r"\A(?:json|JSON)?\s*\n", "", pieces[1])
    try:
        return True, json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False, None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def fits(value: Any, schema: dict[str, Any], where: str = "$") -> str | None:
    """None where the value fits, else the first place that does not and why."""
    if "type" in schema and not any(_is(value, kind) for kind in _listed(schema["type"])):
        return f"{where}: no {schema['type']}"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return f"{where}: not one of the allowed values"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{where}: not {schema['const']!r}"
    if "anyOf" in schema and all(fits(value, inner, where) for inner in schema["anyOf"]):
        return f"{where}: fits none of anyOf"
    if isinstance(value, dict):
        return _fits_object(value, schema, where)
    if isinstance(value, list):
        return _fits_array(value, schema, where)
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            return f"{where}: {len(value)} characters"
        if "pattern" in schema and not re.search(schema["pattern"], value[:2000]):
            return f"{where}: does not match {schema['pattern']}"
    if _is(value, "number") and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return f"{where}: {value} is out of range"
    return None


def _fits_object(value: dict[str, Any], schema: dict[str, Any], where: str) -> str | None:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name in schema.get("required", []):
        if name not in value:
            return f"{where}: {name} is missing"
    for name, one in value.items():
        inner = known.get(name, others)
        if inner is False:
            return f"{where}: {name} is not allowed"
        if isinstance(inner, dict) and (why := fits(one, inner, f"{where}.{name}")):
            return why
    return None


def _fits_array(value: list[Any], schema: dict[str, Any], where: str) -> str | None:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return f"{where}: {len(value)} items"
    items = schema.get("items", True)
    for place, one in enumerate(value):
        if items is False:
            return f"{where}: no items allowed"
        if isinstance(items, dict) and (why := fits(one, items, f"{where}[{place}]")):
            return why
    return None


def _is(value: Any, kind: str) -> bool:
    if kind in ("number", "integer"):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and (kind == "number" or float(value).is_integer())
    return isinstance(value, _TYPES[kind])


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [str(value)]
