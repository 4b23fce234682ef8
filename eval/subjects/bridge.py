"""A bridge as the subject, and anything that is called as its pipeline is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image

from metabridge.eval.items import MODEL_ERROR
from metabridge.eval.plan import Sample
from metabridge.eval.subjects import Drawing

if TYPE_CHECKING:
    from metabridge.bridge.pipeline import BridgePipeline

_TURN = 10**9  # between the seeds of a conversation's turns: no other picture of an evaluation has one of them


class Drawn(Protocol):
    @property
    def images(self) -> list[torch.Tensor]:
        """[3, H, W] in [0, 1], one a prompt; NaN where drawing failed."""

    @property
    def thoughts(self) -> list[str | None]: ...


class Drawer(Protocol):
    """A BridgePipeline is one: it is called with `think`, `seeds` (one a prompt), `output_type` and settings, by name."""

    def __call__(self, prompt: list[str], /, *args: Any, **settings: Any) -> Drawn: ...

    def draw_native(self, captions: list[str], *, seeds: list[int], output_type: str, **settings: Any) -> Drawn: ...


class BridgeSubject:
    alone = False

    def __init__(self, drawer: Drawer, identity: Mapping[str, Any], check: Callable[..., Any] | None = None) -> None:
        """`check` is called after each denoising step, and may raise to leave."""
        self.drawer, self.identity = drawer, {"kind": "bridge", **identity}
        self._heard: dict[str, Any] = {} if check is None else {"callback_on_step_end": check}

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
        alone = [number for number, sample in enumerate(samples) if not sample.item.turns]
        together = self._drawings(row, [samples[n] for n in alone], [images[n] for n in alone], settings) if alone else []
        drawn = dict(zip(alone, together, strict=True))
        for number, sample in enumerate(samples):
            if number not in drawn:
                drawn[number] = self._conversation(row, sample, images[number], settings)
        return [drawn[number] for number in range(len(samples))]

    def _drawings(
        self, row: str, samples: Sequence[Sample], images: Sequence[Sequence[Image.Image]], settings: Mapping[str, Any]
    ) -> list[Drawing]:
        texts, seeds = [sample.item.text for sample in samples], [sample.seed for sample in samples]
        if row == "native":
            drawn = self.drawer.draw_native(texts, seeds=seeds, output_type="pt", **self._heard, **settings)
        else:
            more: dict[str, Any] = {"image": [list(own) for own in images]} if any(images) else {}
            more |= {"think_mode": "rewrite"} if row == "rewrite" else {}
            think = row in ("think", "rewrite")
            drawn = self.drawer(texts, think=think, seeds=seeds, output_type="pt", **more, **_shown(row), **self._heard, **settings)
        return [_drawing(pixels, thought) for pixels, thought in zip(drawn.images, drawn.thoughts, strict=True)]

    def _conversation(self, row: str, sample: Sample, images: Sequence[Image.Image], settings: Mapping[str, Any]) -> Drawing:
        """The pictures of all turns as one, side by side, and their thoughts, a line each: there is all of it or nothing."""
        from metabridge.bridge.conversation import Conversation
        from metabridge.bridge.drawing import NotFinite

        pipeline: BridgePipeline = self.drawer  # type: ignore[assignment]
        talk = Conversation(pipeline, think=row == "think", **_shown(row), **settings)
        pictures: list[Image.Image] = []
        for number, text in enumerate(sample.item.turns):
            try:
                turn = talk.draw(text, list(images) if not number else None, seed=sample.seed + number * _TURN, **self._heard)
            except NotFinite:
                reason = f"picture {number + 1} of {len(sample.item.turns)} has NaN or infinite pixels"
                return Drawing(None, _thoughts(talk), MODEL_ERROR, reason)
            assert turn.drawn is not None
            pictures.append(turn.drawn)
        return Drawing(_in_a_row(pictures), _thoughts(talk))


def _shown(row: str) -> dict[str, Any]:
    """What of the hand's source pictures is said to a pipeline; nothing where it is given them."""
    return {"references": False} if row == "query-only" else {}


def _thoughts(talk: Any) -> str | None:
    return "\n".join(" ".join((turn.said or "").split()) for turn in talk.turns) if talk.think else None


def _in_a_row(pictures: Sequence[Image.Image]) -> Image.Image:
    row = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
    x = 0
    for picture in pictures:
        row.paste(picture, (x, 0))
        x += picture.width
    return row


def _drawing(pixels: torch.Tensor, thought: str | None) -> Drawing:
    """[3, H, W] in [0, 1] -> 8 bits."""
    if not torch.isfinite(pixels).all():
        return Drawing(None, thought, MODEL_ERROR, "the picture has NaN or infinite pixels")
    values = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu()
    return Drawing(Image.fromarray(np.asarray(values)), thought)
