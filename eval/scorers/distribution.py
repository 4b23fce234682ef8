"""FID: how far the features of all pictures together are from those of a reference set; beside it what each picture scores alone.

Options: `resize`, how pictures come to Inception's size (256 | none); `whole`, a reference -> how many pictures it has; `measures`, those
of `embedding` for each picture. Models: `inception`, a file of weights; `reference`, a folder of pictures, or an .npz file of moments.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import fid
from metabridge.eval.benchmarks import form
from metabridge.eval.features import Encoder
from metabridge.eval.items import Item, Services, Unscored, Verdict
from metabridge.eval.scorers import SetRow, embedding

if TYPE_CHECKING:
    from metabridge.eval.features.reference import Reference

log = logging.getLogger(__name__)

PARSER = 1  # raise when features or the distance are computed otherwise
FEW = 10_000  # pictures, below which the bias is large


def calls(options: Mapping[str, Any], item: Item) -> int:
    return 0


def load(options: Mapping[str, Any], services: Services) -> Distribution:
    inception, reference = _measured_by(options, services)
    measures = options.get("measures")
    return Distribution(inception, reference, embedding.load({"measures": measures}, services) if measures else None)


def _measured_by(options: Mapping[str, Any], services: Services) -> tuple[Encoder, Reference]:
    from metabridge.eval.features import inception, reference

    asked = form.options(options, "scoring", resize="256", whole={}, measures=[])
    if "reference" not in services.models:
        raise UserError("models.reference: missing; name the folder of the reference pictures, or an .npz file with mu and sigma")
    weights, word = services.models.get("inception", inception.WEIGHTS), services.models["reference"]
    encoder = inception.InceptionFeatures(weights, asked["resize"], services.device)
    return encoder, reference.load(word, services.data, encoder, asked["whole"].get(word))


@dataclass(frozen=True)
class Distribution:
    inception: Encoder
    reference: Reference
    alone: embedding.Embedding | None  # what each picture scores alone

    workers = 1
    batch = 32

    @property
    def identity(self) -> Mapping[str, Any]:
        own = self.alone.identity if self.alone else {}
        return {
            "variant": " ".join([self.inception.name, self.reference.name, *([own["variant"]] if own else [])]),
            "parser": PARSER,
            "inception": dict(self.inception.identity),
            "reference": self.reference.identity,
            **({"alone": dict(own)} if own else {}),
        }

    def check(self) -> None:
        """The reference is looked at here, so that what is wrong with it is found before the first picture."""
        from metabridge.eval.features.known import check

        check("inception", self.inception)
        if self.alone:
            self.alone.check()
        self.reference.gaussian()

    def score(self, rows: Sequence[tuple[Item, Image.Image]]) -> list[Verdict | Unscored]:
        features = self.inception.images([image for _, image in rows])
        alone = self.alone.score(rows) if self.alone else [Verdict({}) for _ in rows]
        return [
            Verdict(one.values, detail=one.detail, features=own) if np.isfinite(own).all() else Unscored("its features are not finite")
            for one, own in zip(alone, features, strict=True)
        ]


def aggregate(name: str, rows: Sequence[SetRow], options: Mapping[str, Any], services: Services) -> dict[str, Any]:
    """The cell of `fid`: the distance of all rows, with an interval over prompts."""
    if name != "fid":
        raise UserError(f"metrics.{name}: no distance of this name; the one over the whole set is fid")
    return cell(rows, _measured_by(options, services)[1])


def cell(rows: Sequence[SetRow], reference: Reference) -> dict[str, Any]:
    """Of the same rows in any order."""
    prompts = sorted({row.item.number for row in rows})
    places = {number: place % fid.BLOCKS for place, number in enumerate(prompts)}  # each block has of every part of the benchmark
    blocks: dict[int, list[SetRow]] = {}
    for row in sorted(rows, key=lambda row: (row.item.number, str(row.features))):
        blocks.setdefault(places[row.item.number], []).append(row)
    found = fid.estimate([partial(_features, block) for block in blocks.values()], reference.gaussian())
    if found.n < FEW:
        log.warning("fid: %d pictures. Below %d its bias is large; compare it at the same number alone", found.n, FEW)
    numbers = {"value": found.value, "low": found.low, "high": found.high, "stderr": found.stderr}
    return {
        **{key: number if number is None else round(number, 6) for key, number in numbers.items()},
        "n": found.n,
        "prompts": len(prompts),
    }


def _features(rows: Sequence[SetRow]) -> np.ndarray:
    """[n, D]"""
    return np.stack([_read(row) for row in rows])


def _read(row: SetRow) -> np.ndarray:
    try:
        return np.asarray(np.load(row.features or Path(), allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{row.features}: the features of {row.item.group}/{row.item.id} cannot be read ({' '.join(str(error).split())}); "
            "remove the file, and score again"
        ) from error
