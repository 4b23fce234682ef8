"""Public sets by name, a YAML file each: what it is, under which licence, how large, and the source and columns that read it.

title, url, licence, rows, size, notes; `warning`, said whenever the set is opened; `prepare`, what has to be done before it can be;
`unconfirmed`, what could not be checked against the set itself, said too; `source` with its options, of which the recipe's win.
"""

from __future__ import annotations

import logging
from importlib.resources import files
from typing import Any

import yaml

from metabridge.bridge.errors import UserError
from metabridge.bridge.modules import names_in

log = logging.getLogger(__name__)


def names() -> list[str]:
    return names_in("metabridge.training.presets", ".yaml")


def read(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((files("metabridge.training.presets") / f"{name}.yaml").read_text(encoding="utf-8"))
    return tree


def options(name: str, given: dict[str, Any]) -> tuple[str, str | None, dict[str, Any]]:
    """Kind of source, task and options of a preset, with what the recipe gives in the place of its own. Says what one has to know."""
    preset = read(name)
    source: dict[str, Any] = preset["source"] | given
    if "path" not in source:
        raise UserError(f"data {name}.path: missing; {preset['prepare']}, and give that folder ({preset['url']})")
    if "warning" in preset:
        log.warning("data %s: %s", name, preset["warning"])
    if preset.get("unconfirmed"):
        log.warning("data %s: not confirmed: %s", name, "; ".join(preset["unconfirmed"]))
    return source.pop("source"), source.pop("task", None), source
