"""A bridge as the subject, and anything that is called as its pipeline is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from metabridge.eval.items import MODEL_ERROR
from metabridge.eval.plan import Sample
from metabridge.eval.subjects import Drawing


class Drawn(Protocol):
    @property
    def images(self) -> list[torch.Tensor]:
        """[3, H, W] in [0, 1], one a prompt; NaN where drawing failed."""

    @property
    def thoughts(self) -> list[str | None]: ...


class Drawer(Protocol):
    """A BridgePipeline is one. `seeds` has one seed per prompt."""

    def __call__(self, prompt: list[str], *, think: bool, seeds: list[int], output_type: str, **settings: Any) -> Drawn: ...

    def draw_native(self, captions: list[str], *, seeds: list[int], output_type: str, **settings: Any) -> Drawn: ...


class BridgeSubject:
    alone = False

    def __init__(self, drawer: Drawer, identity: Mapping[str, Any]) -> None:
        self.drawer, self.identity = drawer, {"kind": "bridge", **identity}

    def generation(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        hand = self.drawer.bridge.hand  # type: ignore[attr-defined]
        return {
            "num_inference_steps": hand.default_steps if asked["num_inference_steps"] is None else asked["num_inference_steps"],
            "guidance_scale": hand.default_guidance if asked["guidance_scale"] is None else asked["guidance_scale"],
            "height": asked["height"] or hand.default_size[0],
            "width": asked["width"] or hand.default_size[1],
            "think_mode": "always",
            "batch_size": self.drawer.batch_size,  # type: ignore[attr-defined]
        }

    def draw(
        self, row: str, samples: Sequence[Sample], images: Sequence[Sequence[Image.Image]], settings: Mapping[str, Any]
    ) -> list[Drawing]:
        texts, seeds = [sample.item.text for sample in samples], [sample.seed for sample in samples]
        if row == "native":
            drawn = self.drawer.draw_native(texts, seeds=seeds, output_type="pt", **settings)
        else:
            more = {"image": [list(own) for own in images]} if any(images) else {}
            more |= {"think_mode": "rewrite"} if row == "rewrite" else {}
            drawn = self.drawer(texts, think=row != "bridge", seeds=seeds, output_type="pt", **more, **settings)
        return [_drawing(pixels, thought) for pixels, thought in zip(drawn.images, drawn.thoughts, strict=True)]


def _drawing(pixels: torch.Tensor, thought: str | None) -> Drawing:
    """[3, H, W] in [0, 1] -> 8 bits."""
    if not torch.isfinite(pixels).all():
        return Drawing(None, thought, MODEL_ERROR, "the picture has NaN or infinite pixels")
    values = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu()
    return Drawing(Image.fromarray(np.asarray(values)), thought)
