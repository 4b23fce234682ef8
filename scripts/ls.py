"""`metabridge ls`: what exists, and what is known to work."""

from __future__ import annotations

import json
from importlib.resources import files

from metabridge.bridge.errors import UserError
from metabridge.bridge.recipe import unknown

KINDS = ("brains", "hands", "recipes", "benchmarks")


def ls_command(kind: str, as_json: bool) -> None:
    if kind not in KINDS:
        raise UserError(unknown(kind, KINDS, "list"))
    rows = {"brains": adapters, "hands": adapters, "recipes": recipes, "benchmarks": benchmarks}[kind](kind)
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


def adapters(kind: str) -> list[dict[str, str]]:
    """Status from the contract tests' own record."""
    from metabridge.adapters import names

    record = files("metabridge.adapters") / "status.json"
    status = json.loads(record.read_text(encoding="utf-8")).get(kind, {}) if record.is_file() else {}
    unrecorded = {"status": "untested", "reason": "no contract test has recorded it"}
    return [{"name": name, **(status.get(name) or unrecorded)} for name in names(kind)]


def recipes(kind: str) -> list[dict[str, str]]:
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


def benchmarks(kind: str) -> list[dict[str, str]]:
    """One file a benchmark; its first line says what it measures."""
    from metabridge.eval.benchmarks import names

    folder = files("metabridge.eval") / "benchmarks"
    sources = {name: (folder / f"{name}.py").read_text(encoding="utf-8") for name in names()}
    return [{"name": name, "status": "available", "reason": headline(source)} for name, source in sources.items()]


def headline(source: str) -> str:
    """The first line of a module's docstring, without importing it."""
    import ast

    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
