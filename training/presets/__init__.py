"""Public sets by name, a YAML file each: what it is, under which licence, how large, and the source and columns that read it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml


def names() -> list[str]:
    folder = files("metabridge.training.presets")
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read(name: str) -> dict[str, Any]:
    """title, url, licence, rows, bytes, notes, and `source` with its options."""
    tree: dict[str, Any] = yaml.safe_load((files("metabridge.training.presets") / f"{name}.yaml").read_text(encoding="utf-8"))
    return tree
