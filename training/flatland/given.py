"""Prompts on pictures that are given: one out of two (compose), or the same again (reconstruct)."""

from __future__ import annotations

import random
from dataclasses import dataclass

from metabridge.training.flatland.captions import captioned, split
from metabridge.training.flatland.places import MIDDLE, ROW, color_for, in_order, placed, stand
from metabridge.training.flatland.world import HELD_OUT_PAIRS, SHAPES, Scene

_LEADS = ("", "", "please ", "draw ", "make ", "i want ")
_MIX = (
    "the color of the {0} picture on the shape of the {1}",
    "color from picture {2}, shape from picture {3}",
    "the shape of the {1} picture in the color of the {0}",
    "shape from picture {3}, color from picture {2}",
)
_BOTH = ("both side by side", "the first beside the second", "both pictures in one", "picture 1 and picture 2 together")
_AGAIN = ("the same picture again", "this picture again", "a copy of the picture", "the picture as it is", "exactly this", "the same")


@dataclass(frozen=True)
class Given:
    kind: str  # "mix" | "both" | "same"
    text: str
    sources: tuple[Scene, ...]
    target: Scene


def compose(rng: random.Random, kind: str | None = None, wanted: str = "train", allow_held_out: bool = False) -> Given:
    """Two pictures of one object each: the color of one on the shape of the other, or both side by side."""
    kind = kind or ("mix" if rng.random() < 0.7 else "both")
    while True:
        one, two = (stand(rng, color_for(rng, s, allow_held_out), s, MIDDLE[0]) for s in rng.sample(SHAPES, 2))
        if kind == "both":
            said = rng.choice(_BOTH)
            target = in_order([stand(rng, o.color, o.shape, place) for o, place in zip((one, two), ROW, strict=True)])
        else:
            first = rng.random() < 0.5  # the picture that gives the color
            color, shape = (one.color, two.shape) if first else (two.color, one.shape)
            if one.color == two.color or (not allow_held_out and (color, shape) in HELD_OUT_PAIRS):
                continue
            words = ("first", "second", 1, 2) if first else ("second", "first", 2, 1)
            said, target = rng.choice(_MIX).format(*words), Scene((stand(rng, color, shape, MIDDLE[0]),))
        if text := _dressed(rng, said, wanted):
            return Given(kind, text, (Scene((one,)), Scene((two,))), target)


def reconstruct(rng: random.Random, wanted: str = "train", allow_held_out: bool = False) -> Given:
    """A picture in, the same picture out."""
    scene = placed(rng, allow_held_out) if rng.random() < 0.6 else captioned(rng, allow_held_out=allow_held_out).scene
    while not (text := _dressed(rng, rng.choice(_AGAIN), wanted)):
        pass
    return Given("same", text, (scene,), scene)


def _dressed(rng: random.Random, said: str, wanted: str) -> str | None:
    text = f"{rng.choice(_LEADS)}{said}{rng.choice(('', '', ' please', ' now'))}"
    return text if split(text) == wanted else None
