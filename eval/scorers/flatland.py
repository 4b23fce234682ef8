"""Flatland's exact checker as a scorer: right or wrong, from pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from metabridge.eval.items import Item, Services, Verdict
from metabridge.training.flatland.captions import Want


def calls(options: Mapping[str, Any], item: Item) -> int:
    return 0


def load(options: Mapping[str, Any], services: Services) -> Checker:
    return Checker()


class Checker:
    identity: Mapping[str, Any] = {"variant": "checker", "parser": 1}
    workers = 1
    batch = 32

    def check(self) -> None:
        """Nothing to look at: the checker has no weights."""

    def score(self, rows: Sequence[tuple[Item, Image.Image]]) -> list[Verdict]:
        return [verdict(item.want, image) for item, image in rows]


def verdict(want: Mapping[str, Any], image: Image.Image) -> Verdict:
    from metabridge.eval.detect.flatland import correct

    right, reason = correct(image, Want(tuple((color, shape) for color, shape in want["objects"]), want["relation"]))
    return Verdict({"correct": float(right)}, reason)
