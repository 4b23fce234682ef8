"""A row of a tar as columns: its members by extension, and by the schema's usual names what they hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from metabridge.training.schema import USUAL, BadRow

PICTURES = ("jpg", "jpeg", "png", "webp")
TEXTS = ("txt", "text", "caption", "prompt")


class Sample(Mapping[str, Any]):
    """The columns of a row: its members by extension, `__key__`, and what they hold by the schema's usual names.

    image = the first of jpg, jpeg, png, webp; images = 0.jpg, 1.png, ... in that order; of `json` its texts and history. A picture of
    the history is named there by its extension. Columns of other rows are there too, as None.
    """

    def __init__(self, key: str, members: Mapping[str, Any], names: tuple[str, ...]) -> None:
        self.members = members
        self.known: dict[str, Any] = {name: None for name in names if not name.startswith("__")} | {"__key__": key}
        self.image = [name for name in PICTURES if name in names]
        numbered = [name for name in names if name.split(".")[0].isdigit() and name.split(".", 1)[-1] in PICTURES]
        self.images = sorted(numbered, key=lambda name: int(name.split(".")[0]))
        self._lifted: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> Any:
        if name == "json" and name in self.members:
            return self._json()
        if name in self.members:
            return self.members[name]
        if name in self.known:
            return self.known[name]
        if name == "image" and self.image:
            return next((self.members[name] for name in self.image if name in self.members), None)
        if name == "images" and self.images:
            return [self.members[name] for name in self.images if name in self.members]
        return self.lifted()[name]

    def __contains__(self, name: object) -> bool:
        own = name in self.members or name in self.known or (name == "image" and self.image) or (name == "images" and self.images)
        return bool(own) or name in self.lifted()

    def __iter__(self) -> Iterator[str]:
        found = dict.fromkeys([*self.members, *self.known])
        found |= {name: None for name in ("image", "images") if getattr(self, name)} | dict.fromkeys(self.lifted())
        return iter(found)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def lifted(self) -> Mapping[str, Any]:
        """Columns that `json` has by their usual names. A caption in a file of its own stands above one in the JSON."""
        if self._lifted is None:
            try:
                value = self._json() if "json" in self.members else {}
            except BadRow:
                value = {}  # said when json itself is asked for
            texts = () if any(name in self.members for name in TEXTS) else USUAL["prompt"]
            wanted = (*texts, *USUAL["thought"], *USUAL["caption"], *USUAL["history"])
            self._lifted = {name: value[name] for name in wanted if name in value} if isinstance(value, Mapping) else {}
        return self._lifted

    def _json(self) -> Any:
        value = self.members["json"]
        if isinstance(value, Mapping) and isinstance(value.get("history"), list):
            value = {**value, "history": [self._turn(entry) for entry in value["history"]]}
        return value

    def _turn(self, entry: Any) -> Any:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("images"), list):
            return entry
        return {**entry, "images": [self.members.get(name, name) if isinstance(name, str) else name for name in entry["images"]]}


def content(name: str, data: bytes) -> Any:
    """Text and JSON as such, all else as bytes."""
    kind = name.rsplit(".", 1)[-1]
    try:
        if kind == "json":
            return json.loads(data)
        return data.decode("utf-8-sig") if kind in TEXTS else data
    except ValueError as error:
        raise BadRow(f"{name}: no valid {'JSON' if kind == 'json' else 'UTF-8'} ({error})") from error
