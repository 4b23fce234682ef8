"""Families of hands, each with a tiny checkpoint of its own and the call of its official pipeline: a file a family, found by its name."""

from __future__ import annotations

import importlib
import pkgutil

from hand_families.family import Family

FAMILIES: dict[str, Family] = {}
for _found in pkgutil.iter_modules(__path__):
    if _found.name != "family":
        FAMILIES |= importlib.import_module(f"hand_families.{_found.name}").FAMILIES
