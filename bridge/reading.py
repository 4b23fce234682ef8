"""YAML and dotted overrides -> checked values: coerced by a field's type, held to its range, refused with a suggestion."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from metabridge.bridge.errors import UserError, unknown


def section(kind: type[Any], tree: object, where: str) -> Any:
    """A mapping -> one of the dataclasses of settings.py, each value coerced to its field's type and checked against its range."""
    if tree is None:
        return kind()
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: {kind_of(tree)} given; it is a mapping of {', '.join(f.name for f in fields(kind))}")
    refuse_unknown(tree, [f.name for f in fields(kind)], where)
    hints = get_type_hints(kind)
    values = {}
    for f in fields(kind):
        if f.name in tree:
            values[f.name] = _coerce(tree[f.name], hints[f.name], f"{where}.{f.name}")
            _in_range(values[f.name], f.metadata, f"{where}.{f.name}")
    return kind(**values)


def refuse_unknown(tree: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    for key in tree:
        if key not in names:
            raise UserError(unknown(f"{where}.{key}" if where else str(key), names))


def override(tree: dict[str, Any], given: str) -> None:
    """Apply `a.b=value` in place; the value is read as YAML. Unknown keys are found later, with everything else."""
    path, equals, text = given.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"override {given!r}: write key=value, as train.lr=1e-4")
    node: Any = tree
    for depth, key in enumerate(keys[:-1]):
        if isinstance(node, list):
            node = node[index_of(node, key, f"override {path}")]
        else:
            if node.get(key) is None:  # a section that is absent, or there with nothing in it
                node[key] = {}
            node = node[key]
        if not isinstance(node, dict | list):
            raise UserError(f"override {given!r}: {'.'.join(keys[: depth + 1])} is a value, it has no keys below it")
    value = read_yaml(text, f"override {given!r}")
    if isinstance(node, list):
        node[index_of(node, keys[-1], f"override {path}")] = value
    else:
        node[keys[-1]] = value


def index_of(node: list[Any], key: str, where: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise UserError(f"{where}: {key!r} is no position in a list of {len(node)}; count from 0")
    return int(key)


def read_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none, as 2024-13-45
        raise UserError(f"{where}: no valid YAML: {' '.join(str(error).split())}") from error


def _coerce(value: object, hint: Any, where: str) -> Any:
    if get_origin(hint) is tuple:
        rows = value if isinstance(value, list | tuple) else [value]
        return tuple(_coerce(row, get_args(hint)[0], where) for row in rows)
    if hint is str:
        if isinstance(value, bool):  # YAML reads a bare off / on as a bool
            value = "on" if value else "off"
        return text_of(value, where)
    if isinstance(value, bool) and hint is bool:
        return value
    if isinstance(value, bool) or hint is bool:
        raise UserError(f"{where}: {value!r} given; it is {_NAMES[hint]}")
    if hint is int and isinstance(value, int):  # not by way of float, which has 53 bits
        return value
    try:
        number = float(value)  # type: ignore[arg-type]  # PyYAML reads 1e-4 as a string
        if not math.isfinite(number) or (hint is int and number != int(number)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: {value!r} given; it is {_NAMES[hint]}") from None
    return hint(number)


_NAMES = {int: "a whole number", float: "a number", bool: "true or false"}


def _in_range(value: Any, metadata: Mapping[str, Any], where: str) -> None:
    if choices := metadata.get("choices"):
        if value not in choices:
            close = difflib.get_close_matches(value, choices, n=1)
            raise UserError(f"{where}: {value!r} given; {f'did you mean {close[0]}? ' if close else ''}it is one of: {', '.join(choices)}")
        return
    low, high = metadata.get("low"), metadata.get("high")
    if low is not None and value < low:
        raise UserError(f"{where}: {value} given; it is {low:g} at least")
    if high is not None and value > high:
        raise UserError(f"{where}: {value} given; it is {high:g} at most")


def text_of(value: object, where: str) -> str:
    if not isinstance(value, str | int | float) or not str(value):
        raise UserError(f"{where}: {kind_of(value)} given; it is text")
    return str(value)


def plain(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in tree.items()}


def kind_of(value: object) -> str:
    names = {bool: "yes or no", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}
    return "nothing" if value is None or value == "" else names.get(type(value), type(value).__name__)
