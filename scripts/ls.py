"""`metabridge ls`: what exists, and what is known to work."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.resources.abc import Traversable

from metabridge.bridge.errors import UserError, unknown

KINDS = ("brains", "hands", "recipes", "benchmarks")


def ls_command(kind: str, as_json: bool) -> None:
    if kind not in KINDS:
        raise UserError(unknown(kind, KINDS, "list"))
    rows = {"brains": brains, "hands": hands, "recipes": recipes, "benchmarks": benchmarks}[kind]()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column(kind.removesuffix("s"), style="bold", no_wrap=True)
    table.add_column("status")
    table.add_column("")
    for row in rows:
        table.add_row(row["name"], row["status"], row["reason"])
    Console(highlight=False).print(table)


def brains() -> list[dict[str, str]]:
    """Adapters by the name that a recipe gives; then, by the model_type of a checkpoint's config.json, what they were tested with."""
    from metabridge.adapters import names

    folder = files("metabridge.adapters") / "brains"
    rows = [{"name": name, "status": "adapter", "reason": headline(folder / f"{name}.py")} for name in names("brains")]
    return rows + [{"name": name, **entry} for name, entry in record("brains").items()]


def hands() -> list[dict[str, str]]:
    from metabridge.adapters import names

    recorded, unrecorded = record("hands"), {"status": "untested", "reason": "no contract test has recorded it"}
    return [{"name": name, **recorded.get(name, unrecorded)} for name in names("hands")]


def record(kind: str) -> dict[str, dict[str, str]]:
    """What the contract tests found, by their own account."""
    found: dict[str, dict[str, str]] = json.loads((files("metabridge.adapters") / "status.json").read_text(encoding="utf-8"))[kind]
    return found


def recipes() -> list[dict[str, str]]:
    """A recipe's first line says its command, hardware, time and score."""
    from metabridge.bridge.recipe import Recipe
    from metabridge.training.recipes import find, names

    rows = []
    for name in names():
        path = find(name)
        first = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
        try:
            Recipe.load(path)
            rows.append({"name": name, "status": "valid", "reason": first})
        except UserError as error:
            rows.append({"name": name, "status": "invalid", "reason": str(error)})
    return rows


def benchmarks() -> list[dict[str, str]]:
    """One file a benchmark; its first line says what it measures."""
    from metabridge.eval.benchmarks import names

    folder = files("metabridge.eval") / "benchmarks"
    return [{"name": name, "status": "available", "reason": headline(folder / f"{name}.py")} for name in names()]


def headline(module: Traversable) -> str:
    """The first line of a module's docstring, without importing it."""
    import ast

    return (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").split("\n")[0]
