"""Similarity by embeddings: of a picture to its prompt, and to real pictures of its subject.

    clip_score   100 max(cos(picture, prompt), 0): neither the factor 2.5 nor the "A photo depicts" of the first paper
    clip_t       cos(picture, prompt)
    clip_i       mean over the subject's real pictures of cos(picture, real), by CLIP
    dino         the same by DINO

An item's `want` has `real`, paths below the data folder, where the subject is measured.
Options: `measures`, a list of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.reading import refuse_unknown
from metabridge.eval.features import Encoder, TextEncoder
from metabridge.eval.features.pixels import read
from metabridge.eval.items import Item, Services, Verdict

PARSER = 1  # raise when a value is computed otherwise
MEASURES = ("clip_score", "clip_t", "clip_i", "dino")
CLIP, DINO = "openai/clip-vit-base-patch32", "facebook/dino-vits16"


def calls(options: Mapping[str, Any], item: Item) -> int:
    return 0


def load(options: Mapping[str, Any], services: Services) -> Embedding:
    refuse_unknown(options, ["measures"], "scoring")
    measures = options.get("measures")
    if not isinstance(measures, list) or not measures:
        raise UserError(f"scoring.measures: {measures!r} given; it is a list of: {', '.join(MEASURES)}")
    if wrong := next((name for name in measures if name not in MEASURES), None):
        raise UserError(f"scoring.measures: {unknown(str(wrong), MEASURES, 'measure')}")
    clip: TextEncoder | None = None
    dino: Encoder | None = None
    if measures != ["dino"]:
        from metabridge.eval.features.clip import ClipFeatures

        clip = ClipFeatures(services.models.get("clip", CLIP), services.device)
    if "dino" in measures:
        from metabridge.eval.features.dino import DinoFeatures

        dino = DinoFeatures(services.models.get("dino", DINO), services.device)
    return Embedding(tuple(measures), clip, dino, services.data)


@dataclass(frozen=True)
class Embedding:
    measures: tuple[str, ...]
    clip: TextEncoder | None
    dino: Encoder | None
    data: Path | None
    _real: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)  # encoder, file -> [D] of unit length

    workers = 1
    batch = 32

    @property
    def encoders(self) -> dict[str, Encoder]:
        return {role: encoder for role, encoder in (("dino", self.dino), ("clip", self.clip)) if encoder is not None}

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "variant": " ".join(encoder.name for encoder in self.encoders.values()),
            "parser": PARSER,
            "measures": list(self.measures),
            "models": {role: dict(encoder.identity) for role, encoder in self.encoders.items()},
        }

    def check(self) -> None:
        from metabridge.eval.features.known import check

        for role, encoder in self.encoders.items():
            check(role, encoder)
        if self.clip is not None and not _far(*_unit(self.clip.texts(["a red ball", "two dogs on a street"]))):
            raise UserError(f"clip {self.clip.name}: the same embedding, or none, for two different texts; fetch the weights again")

    def score(self, rows: Sequence[tuple[Item, Image.Image]]) -> list[Verdict]:
        items, images = [item for item, _ in rows], [image for _, image in rows]
        drawn = {role: _unit(encoder.images(images)) for role, encoder in self.encoders.items()}
        values: dict[str, Sequence[float]] = {}
        lengths = [0] * len(rows)
        if self.clip is not None and {"clip_score", "clip_t"} & set(self.measures):
            texts = [item.text for item in items]
            lengths = self.clip.lengths(texts)
            cosines = (drawn["clip"] * _unit(self.clip.texts(texts))).sum(axis=1)
            values |= {"clip_t": cosines, "clip_score": 100 * cosines.clip(0)}
        for measure, role in (("clip_i", "clip"), ("dino", "dino")):
            if measure in self.measures:
                values[measure] = [float((self._reals(role, item) @ own).mean()) for item, own in zip(items, drawn[role], strict=True)]
        return [
            Verdict({name: float(values[name][place]) for name in self.measures}, detail=self._cut(lengths[place]))
            for place in range(len(rows))
        ]

    def _reals(self, role: str, item: Item) -> np.ndarray:
        """[real pictures, D]: each is embedded once."""
        files = item.want.get("real")
        if not files or self.data is None:
            raise UserError(f"scoring.measures: {item.group}/{item.id} has no real pictures to be compared with; its reader names none")
        if lacking := [file for file in files if (role, file) not in self._real]:
            found = _unit(self.encoders[role].images([read(self.data / file, "a real picture") for file in lacking]))
            self._real.update(zip([(role, file) for file in lacking], found, strict=True))
        return np.stack([self._real[role, file] for file in files])

    def _cut(self, length: int) -> dict[str, Any]:
        """That of a long prompt the beginning alone was compared."""
        if self.clip is None or length <= self.clip.limit:
            return {}
        return {"prompt_tokens": length, "compared": self.clip.limit}


def _unit(vectors: np.ndarray) -> np.ndarray:
    wide = np.asarray(vectors, np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=-1, keepdims=True))


def _far(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.linalg.norm(a - b) > 1e-6)  # not where one is NaN
