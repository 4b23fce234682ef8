from __future__ import annotations

from tests.runs import fresh_accelerator, recipe_file, tree

__all__ = ["fresh_accelerator", "recipe_file", "tree"]
