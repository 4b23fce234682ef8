"""What was read from YAML -> checked values of dataclasses: by a field's type and range, refused in one line that says where and why."""

from __future__ import annotations

import math
import operator
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import lru_cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.reading import kind_of, refuse_unknown

DEEPEST = 20  # levels of options; YAML can write a list that holds itself
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text, in quotes"}


def record(kind: type[Any], tree: Any, where: str) -> Any:
    """A mapping as a dataclass, nested ones too. Of a field's metadata, `choices`, `low` and `high` are held to."""
    own, hints = fields(kind), _hints(kind)  # type: ignore[arg-type]  # a type is Hashable
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: {kind_of(tree)} given; it is a mapping of {', '.join(f.name for f in own)}")
    refuse_unknown(tree, [f.name for f in own], where)
    if lacking := next((f.name for f in own if f.name not in tree and _needed(f)), None):
        raise UserError(f"{where}.{lacking}: missing")
    given = [f for f in own if f.name in tree and not (tree[f.name] == "" == f.default)]
    values = {f.name: _value(tree[f.name], hints[f.name], f"{where}.{f.name}") for f in given}
    for f in given:
        _in_range(values[f.name], f.metadata, f"{where}.{f.name}")
    return kind(**values)


def options(tree: Mapping[str, Any], where: str, **defaults: Any) -> dict[str, Any]:
    """Options with their defaults, whose types are the options' own."""
    refuse_unknown(tree, list(defaults), where)
    kinds: dict[Any, Any] = {list: tuple[Any, ...], dict: Mapping[str, Any]}
    given = {key: value for key, value in tree.items() if not (value == "" == defaults[key])}
    of = {key: type(defaults[key]) for key in given}
    return {**defaults, **{key: _value(value, kinds.get(of[key], of[key]), f"{where}.{key}") for key, value in given.items()}}


def plain(tree: Any, where: str, depth: int = 0) -> Any:
    """What JSON can hold: options that are handed on as they are, and hashed."""
    if depth > DEEPEST:
        raise UserError(f"{where.partition('.')[0]}: more than {DEEPEST} levels below each other; write it flatter")
    if isinstance(tree, Mapping):
        return {key: plain(value, f"{where}.{_key(key, where)}", depth + 1) for key, value in tree.items()}
    if isinstance(tree, list):
        return [plain(value, f"{where}.{i}", depth + 1) for i, value in enumerate(tree)]
    if tree is None or isinstance(tree, str | bool):
        return tree
    return _value(tree, float, where)


@lru_cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _needed(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _value(value: Any, hint: Any, where: str) -> Any:
    """Numbers stay as they are written, so that a file's hash does."""
    origin, of = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in of and not any(map(is_dataclass, of)):
            return None
        kinds = [kind for kind in of if kind is not type(None)]
        return _value(value, kinds[-1] if isinstance(value, Mapping) else kinds[0], where)
    if is_dataclass(hint):
        return record(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: {kind_of(value)} given; it is a list")
        return tuple(_value(one, of[0], f"{where}.{i}") for i, one in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: {kind_of(value)} given; it is a mapping")
        return {key: _value(one, of[1], f"{where}.{_key(key, where)}") for key, one in value.items()}
    return plain(value, where) if hint is Any else _scalar(value, hint, where)


def _scalar(value: Any, hint: type[Any], where: str) -> Any:
    wanted = (int, float) if hint is float else hint
    if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool) or value == "" or not _finite(value):
        raise UserError(f"{where}: {_shown(value)} given; it is {_NAMES[hint]}")
    return value


def _finite(value: Any) -> bool:
    try:
        return not isinstance(value, int | float) or math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, bool | int | float) and len(str(value)) < 30 else kind_of(value)


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str) or not key or not key.isprintable():
        raise UserError(f"{where}: {key!r} given as a name; a name is {_NAMES[str]}, of signs that can be printed")
    return key


def _in_range(value: Any, metadata: Mapping[str, Any], where: str) -> None:
    if (choices := metadata.get("choices")) is not None:
        for one in value if isinstance(value, tuple) else (value,):
            if one not in choices:
                raise UserError(f"{where}: {unknown(one, choices, 'value')}")
    for name, wrong in (("low", operator.lt), ("high", operator.gt)):
        if name in metadata and wrong(value, metadata[name]):
            raise UserError(f"{where}: {_shown(value)} given; it is {metadata[name]} at {'least' if name == 'low' else 'most'}")
