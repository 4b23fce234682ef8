"""GenEval's color of an object: CLIP between ten colors, on the object alone before grey.

Each color's text embedding is the mean over three prompts with the object's class, of unit length again. Pictures as CLIP wants them:
short side to 224 bicubic, the middle square. An object's crop is cut from the picture after everything around its mask was made grey.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval.detect import Detection
from metabridge.eval.detect.pretrained import load_model, loading
from metabridge.eval.items import Services
from metabridge.eval.scorers.geneval_rules import COLORS

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
_ADVICE = "the weights or the device are broken: compare --device cpu, and fetch the weights again"

REPO = "openai/clip-vit-large-patch14"
GREY = "#999"
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own, of pixels in 0..1
_PATCHES = {  # for the check before scoring
    **{"red": "#e01010", "orange": "#ff8c00", "yellow": "#ffe000", "green": "#10a020", "blue": "#1040e0"},
    **{"purple": "#8020a0", "pink": "#ff80c0", "brown": "#804010", "black": "#000000", "white": "#ffffff"},
}


class Encoder(Protocol):
    """Two towers that embed into one space."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """[n, D] of any length."""

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """[n, D] of any length."""


def load(services: Services) -> ClipColors:
    clip = Clip(services.models.get("clip", REPO), services.device)
    return ClipColors(clip, clip.identity)


class ClipColors:
    def __init__(self, encoder: Encoder, identity: dict[str, str]) -> None:
        self.encoder, self.identity = encoder, identity
        self._weights = cache(self._make_weights)

    def colors(self, image: Image.Image, found: list[Detection]) -> list[str]:
        return [self._color(crop(image, one), one.name) for one in found]

    def _color(self, picture: Image.Image, name: str) -> str:
        similarity = _unit(self.encoder.images([picture]))[0] @ self._weights(name).T
        if not similarity.isfinite().all():
            raise UserError(f"clip {self.identity['repo']}: its embeddings are not finite; {_ADVICE}")
        return COLORS[int(similarity.argmax())]

    def _make_weights(self, name: str) -> Tensor:
        """[colors, D] of a class, made once."""
        prompts = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
        texts = _unit(self.encoder.texts(prompts))
        return _unit(texts.unflatten(0, (len(COLORS), len(TEMPLATES))).mean(1))

    def check(self) -> None:
        """Look at flat patches of the ten colors. That most are named rightly is expected of CLIP, not known of each: a warning if not."""
        patches = [Image.new("RGB", (64, 64), color) for color in _PATCHES.values()]
        features = _unit(self.encoder.images(patches))
        if (features @ features.T).min() > 1 - 1e-6:
            raise UserError(f"clip {self.identity['repo']}: the same embedding for ten different colors; {_ADVICE}")
        right = sum(self._color(patch, "square") == color for patch, color in zip(patches, _PATCHES, strict=True))
        if right <= len(COLORS) // 2:
            _log.warning(
                "clip %s names %d of %d flat colors rightly; colors are not to be trusted", self.identity["repo"], right, len(COLORS)
            )


def crop(image: Image.Image, one: Detection) -> Image.Image:
    """The object's box, grey around its mask."""
    if one.mask is not None:
        image = Image.composite(image, Image.new("RGB", image.size, GREY), Image.fromarray(one.mask))
    left, top, right, bottom = (round(side) for side in one.box)
    return image.crop((left, top, right, bottom))


def _unit(vectors: Tensor) -> Tensor:
    lengths: Tensor = vectors.norm(dim=-1, keepdim=True)
    return vectors / lengths


class Clip:
    """An Encoder by transformers' CLIPModel."""

    def __init__(self, repo: str, device: str) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        model: Any
        model, self.identity = load_model(CLIPModel, "clip", repo, device)
        with loading("clip", repo):
            self.tokenizer = CLIPTokenizer.from_pretrained(repo)
        self.model = model
        self.side = model.config.vision_config.image_size

    def texts(self, texts: Sequence[str]) -> Tensor:
        import torch

        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            features: Tensor = self.model.get_text_features(**tokens).pooler_output
        return features

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        import torch

        batch = torch.stack([pixels(image, self.side) for image in images]).to(self.model.device)
        with torch.inference_mode():
            features: Tensor = self.model.get_image_features(pixel_values=batch).pooler_output
        return features


def pixels(image: Image.Image, side: int) -> Tensor:
    """[3, side, side]: the short side resized, the middle of the long one."""
    import torch

    width, height = image.size
    short = min(width, height)
    width, height = int(side * width / short), int(side * height / short)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    values = torch.from_numpy(np.array(image.crop((left, top, left + side, top + side)), np.float32)).permute(2, 0, 1) / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
