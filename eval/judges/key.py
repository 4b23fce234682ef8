"""The key of an endpoint: from the environment, and nowhere else to be seen."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from metabridge.bridge.errors import UserError

VARIABLES = ("METABRIDGE_JUDGE_KEY", "OPENAI_API_KEY")  # the first that is set counts
_SECRET = 6  # characters; what is shorter (none, EMPTY) stands for no key, and is a part of other words
HIDDEN = "[key]"


@dataclass(frozen=True)
class Key:
    variable: str  # where it comes from
    value: str = field(repr=False)

    @property
    def header(self) -> str:
        return f"Bearer {self.value}"

    def hide(self, tree: Any) -> Any:
        """The same text or JSON without the key: upstream errors like to repeat it."""
        if isinstance(tree, str):
            return tree.replace(self.value, HIDDEN) if len(self.value) >= _SECRET else tree
        if isinstance(tree, list):
            return [self.hide(value) for value in tree]
        if isinstance(tree, dict):
            return {self.hide(name): self.hide(value) for name, value in tree.items()}
        return tree


def from_environment() -> Key | None:
    for variable in VARIABLES:
        if value := os.environ.get(variable, "").strip():
            # the libraries below repeat a header they cannot send in their errors
            if not (value.isascii() and value.isprintable() and " " not in value):
                raise UserError(f"{variable}: holds blanks or signs that no key has; set it to the key alone")
            return Key(variable, value)
    return None
