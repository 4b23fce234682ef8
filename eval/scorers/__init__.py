"""One file a family of scorers. Each has `load(options, services) -> Scorer`, and `calls(options, item)`: judge calls for one picture.

`options` is the `scoring:` mapping of a benchmark's YAML file. A family with a metric over the whole set (`within: set`) has
`aggregate(name, rows, options, services)` too, which gives value, low, high, stderr, n and prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from metabridge.eval.items import Item


@dataclass(frozen=True)
class SetRow:
    """What `aggregate` gets of one scored picture."""

    item: Item
    features: Path | None  # an .npy file, [D] float32; None where its verdict had none
    values: Mapping[str, float]
