"""GenEval: a detector, a color reader and the official rules say whether a picture shows what its prompt asks for.

Options: `detector` (m2f-hf) and `colors` (clip), each by its name or as a dotted module of one's own with `load(services)`, which returns a
Detector or a ColorReader; `rules`, the official settings by their names. A detector or color reader may have an `identity`, which goes into
the score's, and a `check()`, called before the first picture, which raises UserError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.modules import module_of
from metabridge.bridge.reading import section
from metabridge.eval.benchmarks import form
from metabridge.eval.detect import ColorReader, Detection, Detector
from metabridge.eval.items import Item, Services, Verdict
from metabridge.eval.scorers.geneval_rules import Rules, judge, keep

DETECTORS = {"m2f-hf": "metabridge.eval.detect.mask2former"}
COLOR_READERS = {"clip": "metabridge.eval.detect.clip_colors"}
PARSER = 1  # raise when rules or reading change


def calls(options: Mapping[str, Any], item: Item) -> int:
    return 0


def load(options: Mapping[str, Any], services: Services) -> GenEval:
    asked = form.options(options, "scoring", detector="m2f-hf", colors="clip", rules={})
    detector, colors = asked["detector"], asked["colors"]
    rules: Rules = section(Rules, asked["rules"], "scoring.rules")
    variant = detector if colors in ("clip", detector) else f"{detector}+{colors}"
    changed = [f"{name}={value:g}" for name, value in asdict(rules).items() if value != getattr(Rules(), name)]
    return GenEval(
        _part(DETECTORS, detector, "detector", "a Detector").load(services),
        _part(COLOR_READERS, colors, "colors", "a ColorReader").load(services),
        rules,
        " ".join([variant, *changed]),
    )


def _part(known: Mapping[str, str], name: str, setting: str, returned: str) -> Any:
    if "." not in name and name not in known:
        raise UserError(f"scoring.{setting}: {unknown(name, known, setting)}; a dotted module is one of your own")
    return module_of("metabridge.eval.detect", known.get(name, name), known, setting, f"scoring.{setting}", returned)


@dataclass(frozen=True)
class GenEval:
    detector: Detector
    colors: ColorReader
    rules: Rules
    variant: str

    workers = 1
    batch = 8

    @property
    def identity(self) -> Mapping[str, Any]:
        models = {"detector": self.detector, "colors": self.colors}
        return {
            "variant": self.variant,
            "parser": PARSER,
            "rules": asdict(self.rules),
            "models": {role: getattr(model, "identity", None) for role, model in models.items()},
        }

    def check(self) -> None:
        for model in (self.detector, self.colors):
            if hasattr(model, "check"):
                model.check()

    def score(self, rows: Sequence[tuple[Item, Image.Image]]) -> list[Verdict]:
        found = self.detector.detect([image for _, image in rows])
        return [self._verdict(item, image, objects) for (item, image), objects in zip(rows, found, strict=True)]

    def _verdict(self, item: Item, image: Image.Image, found: Sequence[Detection]) -> Verdict:
        if not all(np.isfinite([one.score, *one.box]).all() for one in found):
            raise UserError(f"detector {self.variant}: a score or a box that is no number; nothing it says is to be trusted, mend it first")
        seen: dict[int, str] = {}  # detections are told apart by identity: they may be equal

        def read_colors(objects: list[Detection]) -> list[str]:
            colors = self.colors.colors(image, objects)
            seen.update(zip(map(id, objects), colors, strict=True))
            return colors

        kept = keep(found, item.group, self.rules)
        correct, reason = judge(item.want, kept, read_colors, self.rules)
        detail = [
            {"name": one.name, "score": round(float(one.score), 6), "box": [round(float(side), 2) for side in one.box]}
            | ({"color": seen[id(one)]} if id(one) in seen else {})
            for objects in kept.values()
            for one in objects
        ]
        return Verdict({"correct": float(correct)}, reason, {"kept": detail})
