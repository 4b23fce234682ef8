"""The columns of a row that are read only when they are asked for: of a row of many pictures, those that a recipe maps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any


class Lazy(Mapping[str, Any]):
    """`names` of columns, and what reads one."""

    def __init__(self, names: Collection[str], read: Callable[[str], Any]) -> None:
        self.names, self.read = names, read

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            raise KeyError(name)
        return self.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
