"""Strict settings: YAML in, frozen models out, and one clear line when something is wrong. Not where any default lives.

An unknown key anywhere is an error that names the nearest valid one (`train.lrr: unknown key; did you mean train.lr?`),
because dropping it in silence would train the wrong model for an hour. YAML is read as YAML 1.2 means it: `1e-3` is a
number, and `no`, `010` and `1:30` are not turned into something else; a key given twice is an error.
"""

from __future__ import annotations

import copy
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from doran.base.errors import ConfigError, nearest, one_line

Key = str | int


class StrictModel(pydantic.BaseModel):
    """Base of all settings: strict types, frozen, no unknown keys, no NaN or infinity. Make one with `build`."""

    model_config = pydantic.ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    @pydantic.model_serializer(mode="wrap")
    def _without_unused_later_fields(self, dump: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        for name, field in type(self).model_fields.items():
            if field.json_schema_extra == _LATER and getattr(self, name) == field.default:
                values.pop(name, None)
        return values


_LATER: dict[str, Any] = {"later": True}


def later(default: Any, **kwargs: Any) -> Any:
    """A field added after runs were made: at its default it is left out of what a model dumps to.

    So settings that do not use it keep their fingerprint, and a run from before it can be continued.
    """
    return pydantic.Field(default, json_schema_extra=_LATER, **kwargs)


Model = TypeVar("Model", bound=StrictModel)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError names file, line and problem."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", hint="check the path; ready recipes are in recipes/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})", hint="a recipe is a UTF-8 text file") from None
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path}: expected keys and values, got {_shown(value)}", hint="write lines such as `seed: 0`"
        )
    return value


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text, which `where` names in errors."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{where}{line}: {error.problem}", hint="check indentation, colons and quotes") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML ({error})") from None


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `values` with each `a.b=VALUE` set. VALUE is YAML; a list item goes by its index or by its `name` key.

    A key that the settings don't know is left for `build` to refuse, since only it knows the nearest valid one.
    """
    result = copy.deepcopy(dict(values))
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(
                f"{override!r} is not an override", hint="write it as key.subkey=value, such as train.lr=3e-4"
            )
        holder: Any = result
        for depth, key in enumerate(keys[:-1]):
            holder = _descend(holder, key, ".".join(keys[: depth + 1]))
        value = parse_yaml(text, override)
        if isinstance(holder, list):
            holder[_list_index(holder, keys[-1], path)] = value
        else:
            holder[keys[-1]] = value
    return result


def build(cls: type[Model], values: Mapping[str, Any], where: str = "recipe.yaml") -> Model:
    """`values` as a checked, frozen `cls`. Raises ConfigError: one line with file, path, value and what is expected."""
    try:
        # By way of JSON: there a strict list may fill a tuple and strict text a Path, as a YAML file needs it.
        return cls.model_validate_json(json.dumps(values, default=_plain))
    except pydantic.ValidationError as error:
        problems = error.errors(include_url=False)
        problems.sort(
            key=lambda problem: problem["type"] != "extra_forbidden"
        )  # a misspelt key often explains the rest
        message, hint = _explain(cls, values, problems[0])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{where}: {message}{more}", hint=hint) from None


# --- errors in words -------------------------------------------------------------------------------------

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "none_required": "nothing (null)",
}


def _explain(cls: type[StrictModel], values: Any, problem: Any) -> tuple[str, str | None]:
    """(message, hint) for one pydantic error."""
    loc: tuple[Key, ...] = problem["loc"]
    keys = _real_keys(values, loc)
    path = ".".join(map(str, keys)) or "the settings"
    if problem["type"] == "extra_forbidden":
        return f"{path}: unknown key", _nearest_key(cls, loc, keys)
    if problem["type"] == "missing":
        return f"{path}: this key is required", "add it"
    if problem["type"] == "value_error":
        return f"{path}: got {_shown(problem['input'])}, but {problem['ctx']['error']}", None
    if problem["type"] == "union_tag_not_found":
        return f"{path}: {problem['ctx']['discriminator']} is missing", "it says which kind this is"
    if problem["type"] == "union_tag_invalid":
        tag, known = problem["ctx"]["tag"], problem["ctx"]["expected_tags"]
        return f"{path}: unknown {problem['ctx']['discriminator']} {tag!r}", f"choose one of: {known}"
    expected = _EXPECTED.get(problem["type"]) or one_line(problem["msg"]).removeprefix("Input should be ")
    hint = None
    if problem["type"] == "literal_error":
        near = nearest(str(problem["input"]), re.findall(r"'([^']+)'", expected))
        hint = f"did you mean {near}?" if near else None
    return f"{path}: got {_shown(problem['input'])}, expected {expected}", hint


def _real_keys(values: Any, loc: tuple[Key, ...]) -> list[Key]:
    """`loc` without the union tags that pydantic puts between the real keys."""
    keys: list[Key] = []
    for place, key in enumerate(loc):
        inside = (isinstance(values, Mapping) and key in values) or (
            isinstance(values, Sequence) and not isinstance(values, str) and isinstance(key, int) and key < len(values)
        )
        if inside:
            values = values[key]
            keys.append(key)
        elif place == len(loc) - 1 and isinstance(values, Mapping):
            keys.append(key)  # a missing key
    return keys


def _nearest_key(cls: type[StrictModel], loc: tuple[Key, ...], keys: list[Key]) -> str:
    """The hint for an unknown key: a near name at its place, else the same name elsewhere, else all valid names."""
    here = _models_at(cls, loc[:-1])
    names = sorted({name for model in here for name in model.model_fields})
    prefix = "".join(f"{key}." for key in keys[:-1])
    word = str(loc[-1])
    if near := nearest(word, names):
        return f"did you mean {prefix}{near}?"
    here_too = ".".join(str(key) for key in keys if isinstance(key, str))  # a sibling in a list of unlike items has it
    elsewhere = [path for path in _all_paths(cls) if path.split(".")[-1] == word and path != here_too]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    return f"valid keys here: {', '.join(names)}"


def _models_at(cls: type[StrictModel], loc: tuple[Key, ...]) -> list[type[StrictModel]]:
    """The models that may stand at `loc`; a part that is no field is a union tag and narrows the choice."""
    here = [cls]
    for part in loc:
        if isinstance(part, int):
            continue
        fields = [model.model_fields[part].annotation for model in here if part in model.model_fields]
        if fields:
            here = [model for annotation in fields for model in _models_in(annotation)]
        else:
            here = [model for model in here if _is_tagged(model, part)] or here
    return here


def _models_in(annotation: Any) -> list[type[StrictModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, StrictModel) else []
    return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]


def _is_tagged(model: type[StrictModel], tag: str) -> bool:
    literals = (field.annotation for field in model.model_fields.values())
    return model.__name__ == tag or any(
        tag in typing.get_args(literal) for literal in literals if typing.get_origin(literal) is typing.Literal
    )


def _all_paths(cls: type[StrictModel], prefix: str = "", depth: int = 0) -> list[str]:
    paths: list[str] = []
    for name, field in cls.model_fields.items():
        paths.append(prefix + name)
        if depth < 6:  # settings that hold themselves end here
            for model in _models_in(field.annotation):
                paths += _all_paths(model, f"{prefix}{name}.", depth + 1)
    return paths


def _shown(value: Any) -> str:
    text = one_line(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(value: Any) -> Any:
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    raise ConfigError(f"{_shown(value)} cannot stand in settings", hint="use text, numbers, lists and keys")


# --- overrides -------------------------------------------------------------------------------------------


def _descend(holder: Any, key: str, path: str) -> Any:
    """The mapping or list under `key`, made when absent."""
    if isinstance(holder, list):
        inner = holder[_list_index(holder, key, path)]
    else:
        if holder.get(key) is None:
            holder[key] = {}
        inner = holder[key]
    if not isinstance(inner, dict | list):
        raise ConfigError(f"{path}: is {_shown(inner)} and has no keys inside", hint=f"set it whole: {path}=...")
    return inner


def _list_index(items: list[Any], key: str, path: str) -> int:
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    known = ", ".join(str(name) for name in names if name)
    raise ConfigError(
        f"{path}: this list has no item {key!r}", hint=f"use 0 to {len(items) - 1}" + (f" or {known}" if known else "")
    )


# --- YAML 1.2 on PyYAML ----------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars and no double keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own way to start a loader without its YAML 1.1 rules)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in [
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
    ("merge", r"^<<$", ["<"]),
]:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
