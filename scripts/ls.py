"""`metabridge ls`: what exists, and what is known to work."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from metabridge.bridge.errors import UserError, unknown

KINDS = ("brains", "hands", "recipes", "benchmarks", "data")


def ls_command(kind: str, as_json: bool) -> None:
    if kind not in KINDS:
        raise UserError(unknown(kind, KINDS, "list"))
    rows = {"brains": brains, "hands": hands, "recipes": recipes, "benchmarks": benchmarks, "data": data}[kind]()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if kind == "benchmarks":
        from rich.box import SIMPLE_HEAD

        facts = Table("benchmark", "prompts", "images", "scored by", "licence", "badge", box=SIMPLE_HEAD, pad_edge=False)
        facts.columns[0].no_wrap = True
        titles = Table("", "what it measures", box=SIMPLE_HEAD, pad_edge=False)
        titles.columns[0].no_wrap = True
        for row in rows:
            if row["status"] != "suite":
                facts.add_row(*(escape(row[key]) for key in ("name", "prompts", "images", "scored by", "licence", "status")))
            titles.add_row(row["name"], escape(row["reason"]))
        return Console(highlight=False).print(facts, titles)
    table = Table(show_lines=kind == "data")
    table.add_column(kind.removesuffix("s"), style="bold", no_wrap=True)
    if kind != "data":
        table.add_column("status")
    table.add_column("", overflow="fold")
    for row in rows:
        table.add_row(*([row["name"], escape(about(row))] if kind == "data" else [row["name"], row["status"], row["reason"]]))
    Console(highlight=False).print(table)


def about(row: dict[str, Any]) -> str:
    """A kind of source in a line, a public set in several."""
    facts = [f"{key}: {row[key]}" for key in ("rows", "size", "licence") if row[key]]
    return "\n".join([row["reason"], *(["; ".join(facts)] if facts else []), *(f"- {note}" for note in row["notes"])])


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
    """One file a benchmark: what it takes and how far its numbers can be trusted; then the suites made of them."""
    from metabridge.eval import suites
    from metabridge.eval.benchmarks import load, names

    rows = []
    for one in map(load, names()):
        judge = "none" if one.judge is None else one.judge.recommended or one.judge.official or "any"
        scored_by = judge if one.judge is not None else ", ".join(one.models) or "checker"
        rows.append(
            {
                "name": one.name,
                "status": one.badge,
                "reason": one.title,
                "task": one.task,
                "prompts": str(one.count),
                "images": str(one.images),
                "judge": judge,
                "scored by": scored_by,
                "licence": one.data.licence if one.data else "none needed",
            }
        )
    for name in suites.names():
        tree = suites.read(name)
        parts = ", ".join(run["benchmark"] for run in tree["run"])
        rows.append({"name": name, "status": "suite", "reason": f"{tree['title']} ({parts})"})
    return rows


def data() -> list[dict[str, Any]]:
    """Kinds of source, a file each, then the public sets that are known by name."""
    from metabridge.training import presets

    none: dict[str, Any] = {"licence": "", "rows": "", "size": "", "notes": []}
    modules = sorted((files("metabridge.training") / "sources").iterdir(), key=lambda module: module.name)
    named = {module.name[:-3]: module for module in modules if module.name.endswith(".py") and module.name != "__init__.py"}
    kinds = [{"name": name, "status": "kind", "reason": headline(module)} | none for name, module in named.items()]
    sets = []
    for name in presets.names():
        tree = presets.read(name)
        told = [*([tree["warning"]] if "warning" in tree else []), *([tree["prepare"]] if "prepare" in tree else []), *tree["notes"]]
        told += [f"not confirmed: {what}" for what in tree.get("unconfirmed", [])]
        row = {"name": name, "status": "preset", "reason": tree["title"], "licence": tree["licence"], "rows": str(tree["rows"])}
        sets.append(row | {"size": tree.get("size", ""), "notes": told, "url": tree["url"]})
    return kinds + sets


def headline(module: Traversable) -> str:
    """The first line of a module's docstring, without importing it."""
    import ast

    return (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").split("\n")[0]
