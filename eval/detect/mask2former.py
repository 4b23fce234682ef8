"""m2f-hf: instances by transformers' Mask2Former, with mmdet's way of resizing, scoring and boxing.

Pixels: short side to 800 but the long one to 1333 at most, bilinear without antialias, padded to a multiple of 32.
Masks: logits are upsampled to the padded picture, cut to what is not padding, upsampled to the picture's own size; > 0 is inside.
Scores: class softmax x mean mask probability inside the mask, of the 100 best of query x class, so that a query can be of several classes.
The weights are not those of GenEval's own detector, so its numbers are a variant.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from metabridge.bridge.errors import UserError
from metabridge.eval.detect import Detection
from metabridge.eval.detect.pretrained import load_model
from metabridge.eval.items import Services
from metabridge.eval.readers.geneval import class_names

if TYPE_CHECKING:
    from torch import Tensor

REPO = "facebook/mask2former-swin-small-coco-instance"
SHORT, LONG, MULTIPLE = 800, 1333, 32
MOST = 100  # detections of a picture
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, of pixels in 0..255
_TOGETHER = 16  # masks that are upsampled at once
_CONSTANT, _FAR = 1e-6, 0.1  # distances of answers: a constant's; more than rounding and tf32 explain
_ADVICE = "the weights or the device are broken: compare --device cpu, and fetch the weights again"


def load(services: Services) -> Mask2Former:
    from transformers import Mask2FormerForUniversalSegmentation

    repo = services.models.get("detector", REPO)
    names = class_names(services.data)
    model, identity = load_model(Mask2FormerForUniversalSegmentation, "detector", repo, services.device)
    _refuse_other_classes(model.config.id2label, names, repo)
    return Mask2Former(model, names, identity)


def _refuse_other_classes(labels: dict[int, str], names: Sequence[str], repo: str) -> None:
    """Classes are taken by index, so the model's must be COCO's in COCO's order; a few have other names there, as `mouse`."""
    if len(labels) != len(names):
        raise UserError(f"detector {repo}: {len(labels)} classes, the benchmark has {len(names)}; give a model of COCO instances")
    given = [labels[index] for index in range(len(names))]
    if any(label != f"LABEL_{index}" for index, label in enumerate(given)):  # names that nobody gave say nothing
        other = [f"{label} for {name}" for label, name in zip(given, names, strict=True) if not name.endswith(label)]
        if len(other) > len(names) // 4:
            raise UserError(
                f"detector {repo}: {len(other)} of its {len(names)} classes have other names, as {other[0]}; give a model of COCO instances"
            )


@dataclass(frozen=True)
class Shape:
    """Height and width of a picture on its way through the model."""

    own: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def of(cls, height: int, width: int) -> Shape:
        scale = min(LONG / max(height, width), SHORT / min(height, width))
        resized = (int(height * scale + 0.5), int(width * scale + 0.5))
        return cls((height, width), resized, (_up(resized[0]), _up(resized[1])))


def _up(side: int) -> int:
    return -(-side // MULTIPLE) * MULTIPLE


class Mask2Former:
    """A detector. It sees one picture at a time, so that what it finds does not depend on a batch."""

    def __init__(self, model: Any, names: Sequence[str], identity: dict[str, str]) -> None:
        self.model, self.names, self.identity = model, names, identity

    def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
        import torch

        with torch.inference_mode():
            return [self._instances(image, self._answer(image, self.model)) for image in images]

    def _instances(self, image: Image.Image, answer: tuple[Tensor, Tensor]) -> list[Detection]:
        return instances(*answer, Shape.of(image.height, image.width), self.names)

    def _answer(self, image: Image.Image, model: Any) -> tuple[Tensor, Tensor]:
        """Logits of classes [Q, classes + 1] and of masks [Q, h, w]."""
        answer = model(pixel_values=pixels(image, Shape.of(image.height, image.width))[None].to(model.device))
        classes, masks = answer.class_queries_logits[0], answer.masks_queries_logits[0]
        if not (classes.isfinite().all() and masks.isfinite().all()):
            raise UserError(f"{self._where(model)}: its outputs are not finite; {_ADVICE}")
        return classes, masks

    def _where(self, model: Any) -> str:
        return f"detector {self.identity['repo']} on {model.device}"

    def check(self) -> None:
        """Look at two drawn pictures before anything is scored.

        Seen: outputs that are not finite, no mask at all, outputs that do not depend on the picture, and, on an accelerator, outputs that
        differ from the same model's on the CPU (GenEval's own detector went on without an error where a kernel was built for another GPU).
        Not seen: whether it is good at photographs. A drawing of known objects does not tell, as nobody trained it on drawings.
        """
        import torch

        known, where = known_pictures(), self._where(self.model)
        with torch.inference_mode():
            answers = [self._answer(image, self.model) for image in known]
            if not any(self._instances(image, answer) for image, answer in zip(known, answers, strict=True)):
                raise UserError(f"{where}: no mask at all in two known pictures; {_ADVICE}")
            if distance(*answers) < _CONSTANT:
                raise UserError(f"{where}: the same answer to two different pictures; {_ADVICE}")
            if self.model.device.type != "cpu":
                reference = copy.deepcopy(self.model).cpu()
                far = max(distance(answer, self._answer(image, reference)) for image, answer in zip(known, answers, strict=True))
                if far > _FAR:
                    raise UserError(f"{where}: its probabilities are {far:.2f} from those on the CPU, {_FAR} at most; {_ADVICE}")


def distance(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """How far two answers to pictures of one size are apart, 0..1: in the classes of a query or in the pixels of a mask, on average."""
    (classes_a, masks_a), (classes_b, masks_b) = ((classes.cpu().softmax(-1), masks.cpu().sigmoid()) for classes, masks in (a, b))
    return max(float((classes_a - classes_b).abs().sum(-1).mean() / 2), float((masks_a - masks_b).abs().mean()))


def pixels(image: Image.Image, shape: Shape) -> Tensor:
    """[3, H, W] of the padded size; the padding is the mean color."""
    import torch
    from torch.nn.functional import interpolate, pad

    values = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)
    # whole values, as of a picture that was resized in bytes
    values = interpolate(values[None], size=shape.resized, mode="bilinear", align_corners=False)[0].round()
    values = (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return pad(values, (0, shape.padded[1] - shape.resized[1], 0, shape.padded[0] - shape.resized[0]))


def instances(classes: Tensor, masks: Tensor, shape: Shape, names: Sequence[str]) -> list[Detection]:
    """Logits [Q, classes + 1] and [Q, h, w] of one picture -> its detections, best first. An empty mask has no box and is left out."""
    scores, order = classes.softmax(-1)[:, :-1].flatten().sort(descending=True, stable=True)
    best = [
        (int(place) // len(names), int(place) % len(names), float(score)) for place, score in zip(order[:MOST], scores[:MOST], strict=True)
    ]
    queries = sorted({query for query, _, _ in best})
    drawn = dict(zip(queries, _masks(masks[queries], shape), strict=True))
    found = []
    for query, label, score in best:
        quality, mask = drawn[query]
        if mask is not None:
            found.append(Detection(names[label], score * quality, _extent(mask), mask))
    return sorted(found, key=lambda one: -one.score)


def _masks(logits: Tensor, shape: Shape) -> Iterator[tuple[float, np.ndarray | None]]:
    """Of each mask its mean probability inside, and its pixels; None where it is empty."""
    from torch.nn.functional import interpolate

    for some in logits.split(_TOGETHER):
        some = interpolate(some[None], size=shape.padded, mode="bilinear", align_corners=False)
        some = some[:, :, : shape.resized[0], : shape.resized[1]]
        for one in interpolate(some, size=shape.own, mode="bilinear", align_corners=False)[0]:
            inside = one > 0
            if inside.any():
                yield float(one.sigmoid()[inside].mean()), inside.cpu().numpy()
            else:
                yield 0.0, None


def _extent(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The box from a mask's first pixel to the one after its last."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def known_pictures() -> list[Image.Image]:
    """Two drawings of one size that have nothing in common; not square, so that padding is part of the check."""
    disc = Image.new("RGB", (320, 240), (96, 160, 224))
    ImageDraw.Draw(disc).ellipse((30, 60, 150, 180), fill=(208, 32, 32), outline=(255, 255, 255), width=6)
    bars = Image.new("RGB", (320, 240), (60, 110, 50))
    for left in (150, 200, 250):
        ImageDraw.Draw(bars).rectangle((left, 20, left + 25, 220), fill=(240, 230, 200))
    return [disc, bars]
