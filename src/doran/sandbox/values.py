"""Plain values as JSON and back: what may cross between the code on trial and the tests.

Only values cross, never objects: an answer whose `__eq__` always says yes arrives as what it is made of, or as a
`Handle`, which is equal to nothing but itself. Decoding builds plain types only, whatever the bytes say.
"""

from __future__ import annotations

import builtins
import decimal
import fractions
import itertools
import json
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 60
MAX_ITEMS = 100_000  # of an iterator, which might never end
MAX_CHARS = 4_000_000


class NotPlain(TypeError):
    """A value that cannot cross."""


def dumps(value: Any, keep: Callable[[Any], int] | None = None) -> str:
    """The text for a value. `keep(object)` numbers what is not plain; without it that is NotPlain."""
    text = json.dumps(_encode(value, keep, 0))
    if len(text) > MAX_CHARS:
        raise NotPlain("a value of more than 4 million characters")
    return text


def loads(text: str, handle: Callable[[int], Any] | None = None) -> Any:
    """The value of a text; `handle(number)` makes what stands for a kept object. ValueError for other bytes."""
    try:
        return _decode(json.loads(text), handle)
    except (KeyError, IndexError, TypeError, RecursionError, ArithmeticError, AttributeError) as error:
        raise ValueError(f"no value: {type(error).__name__}") from None


def _encode(x: Any, keep: Callable[[Any], int] | None, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise NotPlain("a value nested too deep")

    def inner(items: Any) -> list[Any]:
        return [_encode(item, keep, depth + 1) for item in items]

    if x is None or x is True or x is False:
        return x
    if isinstance(x, str):
        return str.__str__(x)
    if isinstance(x, int):
        return ["int", hex(int(x))]
    if isinstance(x, float):
        return ["float", float.__repr__(x)]
    if isinstance(x, complex):
        return ["complex", float.__repr__(x.real), float.__repr__(x.imag)]
    if isinstance(x, bytes | bytearray):
        return ["bytes" if isinstance(x, bytes) else "bytearray", x.hex()]
    for kind, tag in ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "frozenset")):
        if isinstance(x, kind):
            return [tag, *inner(kind.__iter__(x))]  # type: ignore[arg-type]
    if isinstance(x, dict):
        return ["dict", inner(dict.keys(x)), inner(dict.values(x))]
    if isinstance(x, fractions.Fraction):
        return ["fraction", hex(x.numerator), hex(x.denominator)]
    if isinstance(x, decimal.Decimal):
        return ["decimal", str(x)]
    if isinstance(x, range):
        return ["range", *inner((x.start, x.stop, x.step))]
    if keep is not None and hasattr(type(x), "__next__"):  # a generator, a map, a zip: its items, once
        return ["iterator", *inner(itertools.islice(x, MAX_ITEMS))]
    if isinstance(x, type) and x in vars(builtins).values():
        return ["type", type.__dict__["__name__"].__get__(x)]
    if isinstance(x, Handle):
        return ["handle", x.number_]
    if keep is not None:
        return ["handle", keep(x)]
    raise NotPlain(f"a {type(x).__name__}, which is not plain data")


def _decode(x: Any, handle: Callable[[int], Any] | None) -> Any:
    if x is None or isinstance(x, bool | str):
        return x
    if not isinstance(x, list) or not x:
        raise ValueError("no value")
    tag, rest = x[0], x[1:]
    if tag in _KINDS:
        return _KINDS[tag](_decode(item, handle) for item in rest)
    if tag == "dict":
        keys, values = ([_decode(item, handle) for item in part] for part in rest)
        return dict(zip(keys, values, strict=True))
    if tag == "range":
        return range(*(_decode(item, handle) for item in rest))
    if tag == "handle" and handle is not None and isinstance(rest[0], int):
        return handle(rest[0])
    if tag == "type" and isinstance(getattr(builtins, str(rest[0]), None), type):
        return getattr(builtins, rest[0])
    if tag in _READERS and all(isinstance(part, str) for part in rest):
        return _READERS[tag](*rest)
    raise ValueError("no value")


_KINDS: dict[str, Callable[[Any], Any]] = {
    "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "iterator": lambda items: iter(list(items)),
}  # fmt: skip
_READERS: dict[str, Callable[..., Any]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "complex": lambda real, imaginary: complex(float(real), float(imaginary)),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "fraction": lambda top, bottom: fractions.Fraction(int(top, 16), int(bottom, 16)),
    "decimal": decimal.Decimal,
}


class Handle:
    """Stands in the tests for an object that lives with the code on trial; `call_` asks over there.

    Equal to itself only. Calling it, reading and setting its attributes go through; they give plain values or handles.
    """

    def __init__(self, number: int, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "number_", number)
        object.__setattr__(self, "call_", call)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self.call_("call", self, *args, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.call_("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.call_("set", self, name, value)
