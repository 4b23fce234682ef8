"""Families of brains, each with a tiny checkpoint of its own: a file a group, found by its name."""

from __future__ import annotations

import importlib
import pkgutil

from brain_families.family import Family

FAMILIES: dict[str, Family] = {}
for _found in pkgutil.iter_modules(__path__):
    if _found.name != "family":
        FAMILIES |= importlib.import_module(f"brain_families.{_found.name}").FAMILIES
