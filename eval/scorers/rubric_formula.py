"""What a judge's scores come to: short formulas of a benchmark's file, as `sqrt(semantics * quality)`."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from metabridge.bridge.errors import UserError, unknown

FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": lambda *values: min(values),
    "max": lambda *values: max(values),
    "mean": lambda *values: sum(values) / len(values),
    "sqrt": math.sqrt,
}
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class Formula:
    text: str
    tree: ast.expr
    names: frozenset[str]  # of scores and of values above it

    def __call__(self, values: Mapping[str, float]) -> float:
        try:
            return float(_value(self.tree, values))
        except (ArithmeticError, ValueError) as error:
            given = ", ".join(f"{name} {values[name]:g}" for name in sorted(self.names))
            raise UserError(f"scoring.values: {self.text!r} has no value for {given} ({error}); mend the formula") from error


def read(text: Any, known: Iterable[str], where: str) -> Formula:
    """A formula of the names `known`: + - * /, numbers, brackets and FUNCTIONS."""
    try:
        tree = ast.parse(str(text), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{where}: {text!r} is no formula; write one as (0.7 * a + 0.3 * b) / 2") from error
    _check(tree, where)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called)
    there = list(known)
    for name in sorted(names):
        if name not in there:
            raise UserError(f"{where}: {unknown(name, there, 'score')}")
    return Formula(str(text), tree, names)


def _check(node: ast.expr, where: str) -> None:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        parts = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        parts = [node.operand]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and node.args and not node.keywords:
        if node.func.id == "sqrt" and len(node.args) != 1:
            raise UserError(f"{where}: sqrt is of one number")
        parts = node.args
    elif isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
        return
    else:
        raise UserError(f"{where}: {ast.unparse(node)!r} is not for a formula; it has numbers, names, + - * / and {', '.join(FUNCTIONS)}")
    for part in parts:
        _check(part, where)


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, values)
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return FUNCTIONS[node.func.id](*(_value(part, values) for part in node.args))
    if isinstance(node, ast.Name):
        return values[node.id]
    assert isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    return node.value
