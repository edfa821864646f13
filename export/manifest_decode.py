"""Plain JSON values to dataclasses, every type checked and every complaint naming its field."""

from __future__ import annotations

import sys
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
MAX_FLOAT = sys.float_info.max
_SCALARS = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}


def decode(kind: type[T], value: Any, where: str = "") -> T:
    """Return `value` (parsed JSON) as an instance of the dataclass `kind`.

    Fields of a later version that `kind` lacks are ignored.

    Raises:
        ValueError: if a field is missing or of another type; the message names it.
    """
    if not isinstance(value, dict):
        raise _mismatch(where, "an object", value)
    hints = get_type_hints(kind)
    arguments = {}
    for item in fields(kind):  # type: ignore[arg-type]  # a dataclass, by contract
        inner = f"{where}.{item.name}" if where else item.name
        if item.name in value:
            arguments[item.name] = _decode_value(hints[item.name], value[item.name], inner)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"{inner} is missing")
    return kind(**arguments)


def _decode_value(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return _decode_union(arguments, value, where)
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _mismatch(where, "an object", value)
        return {
            key: _decode_value(arguments[1], item, f"{where}['{key[:80]}']")
            for key, item in value.items()
        }
    if is_dataclass(kind):
        return decode(kind, value, where)  # type: ignore[arg-type]  # a class, not an instance
    return _decode_scalar(kind, value, where)


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    candidates = [kind for kind in kinds if kind is not NoneType]
    # An exact type first: with `int | float`, 1 stays an int and True is neither.
    exact = [kind for kind in candidates if type(value) is kind]
    return _decode_value((exact or candidates)[0], value, where)


def _decode_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _mismatch(where, "a list", value)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise _mismatch(where, f"{len(kinds)} entries", value)
    pairs = zip(kinds, value, strict=True)
    return tuple(_decode_value(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(pairs))


def _decode_scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float:
        # bool is an int to Python; a whole number too large for a float is none we could use.
        finite = type(value) in (int, float) and abs(value) <= MAX_FLOAT
        if finite:
            return float(value)
    elif type(value) is kind:
        return value
    raise _mismatch(where, _SCALARS[kind], value)


def _mismatch(where: str, expected: str, value: Any) -> ValueError:
    shown = repr(value)
    got = shown if len(shown) <= 60 else f"{shown[:60]}…"
    return ValueError(f"{where or 'the file'}: expected {expected}, got {got}")
