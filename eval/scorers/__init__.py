"""One file a family of scorers. Each has `load(options, services) -> Scorer`, and `calls(options, item)`: judge calls for one picture.

`options` is the `scoring:` mapping of a benchmark's YAML file. A family with a metric over the whole set (`within: set`) has
`aggregate(name, rows, options, services)` too, which gives value, low, high, stderr, n and prompts. One that heeds `services.compat` says
`COMPAT = True`: of the others, --compat official is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from metabridge.eval.items import Item, Unscored, Verdict
from metabridge.eval.judges import Judge, canary


@dataclass(frozen=True)
class SetRow:
    """What `aggregate` gets of one scored picture."""

    item: Item
    features: Path | None  # an .npy file, [D] float32; None where its verdict had none
    values: Mapping[str, float]


class Judged:
    """What scorers by a judge share: a picture at a time, as many at once as the judge takes questions."""

    judge: Judge
    batch = 1

    @property
    def workers(self) -> int:
        return self.judge.concurrency

    def check(self) -> None:
        canary.check(self.judge)

    def score(self, rows: Sequence[tuple[Item, Image.Image]]) -> list[Verdict | Unscored]:
        return [self.score_one(item, image) for item, image in rows]

    def score_one(self, item: Item, image: Image.Image) -> Verdict | Unscored:
        raise NotImplementedError
