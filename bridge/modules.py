"""One kind, one file: modules that a recipe names by their file's name, or, with dots, anybody's."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from metabridge.bridge.errors import UserError, unknown


def names_in(package: str, ending: str = ".py") -> list[str]:
    """The names of the files of a package."""
    entries = (entry.name for entry in files(package).iterdir())
    return sorted(name.removesuffix(ending) for name in entries if name.endswith(ending) and name != "__init__.py")


def module_of(package: str, name: str, known: Iterable[str], what: str, setting: str, returned: str) -> Any:
    """The module `name` of a package, or a dotted one of a third party, which has a load(); `known` are the names to suggest."""
    if "." not in name and name not in names_in(package):
        raise UserError(unknown(name, known, what))
    try:
        module = importlib.import_module(name if "." in name else f"{package}.{name}")
    except ModuleNotFoundError as error:
        raise UserError(f"{setting}: {name}: no module {error.name} in this environment; install it") from error
    if not hasattr(module, "load"):
        raise UserError(f"{setting}: {name}: the module has no load(); add one that returns {returned}")
    return module
