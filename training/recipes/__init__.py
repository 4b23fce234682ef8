"""The shipped recipes, found by their names."""

from __future__ import annotations

from pathlib import Path

from metabridge.bridge.errors import UserError, unknown

FOLDER = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def is_file(recipe: str) -> bool:
    """Whether this means a recipe file, and not a name."""
    path = Path(recipe)
    return path.suffix in (".yaml", ".yml") or path.is_file()


def find(recipe: str) -> Path:
    """A recipe file, or the name of a shipped one -> its path."""
    path = Path(recipe)
    if is_file(recipe):
        if not path.is_file():
            raise UserError(f"recipe {recipe}: no such file; give a recipe file, or a shipped name: {', '.join(names())}")
        return path
    if recipe not in names():
        raise UserError(unknown(recipe, names(), "recipe") + "; or give a recipe file (.yaml)")
    return FOLDER / f"{recipe}.yaml"
