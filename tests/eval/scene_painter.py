"""Who draws Flatland's edits by the renderer itself: rightly, or wrongly in a way that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from metabridge.eval.items import Item
from metabridge.eval.plan import Sample
from metabridge.eval.readers.scene_edits import scene_of
from metabridge.eval.subjects import Drawing
from metabridge.training.flatland.places import PLACES
from metabridge.training.flatland.world import COLORS, SHAPES, Object, Scene, draw
from tests.eval.oracle import BRIDGE

Change = Callable[[Item, list[Scene]], list[Scene]]  # the scenes that are drawn in place of the right ones


def scenes(item: Item, key: str = "targets") -> list[Scene]:
    return [scene_of(tree) for tree in item.want[key]]


def changed(item: Item) -> Object:
    """What the words speak of, in the last scene; any object where nothing new came, and of frames the one that is in all."""
    target = scenes(item)[-1]
    if item.group == "frames":
        return next(o for o in target.objects if o.shape == scenes(item)[0].objects[0].shape)
    before = [o for scene in scenes(item, "sources") for o in scene.objects]
    return next((o for o in target.objects if o not in before), target.objects[0])


def kept(item: Item) -> Object | None:
    """An object of an edit that must stay as it is."""
    return next((o for o in scenes(item)[0].objects if o in scenes(item, "sources")[0].objects), None)


def swapped(shown: list[Scene], old: Object, *new: Object, turn: int = -1) -> list[Scene]:
    """The scenes with other objects in the place of one."""
    scene = Scene(tuple(o for one in shown[turn].objects for o in (new if one == old else (one,))))
    return [scene if number == turn % len(shown) else one for number, one in enumerate(shown)]


def another_color(color: str) -> str:
    return list(COLORS)[(list(COLORS).index(color) + 2) % len(COLORS)]


def right(item: Item, shown: list[Scene]) -> list[Scene]:
    return shown


def wrong_color(item: Item, shown: list[Scene]) -> list[Scene]:
    old = changed(item)
    return swapped(shown, old, replace(old, color=another_color(old.color)))


def wrong_place(item: Item, shown: list[Scene]) -> list[Scene]:
    """To the free place that is furthest from all."""
    old = changed(item)
    stands = [(o.x, o.y) for o in shown[-1].objects]

    def room(at: tuple[float, float]) -> float:
        return min((at[0] - x) ** 2 + (at[1] - y) ** 2 for x, y in stands)

    x, y = max(PLACES.values(), key=room)
    return swapped(shown, old, replace(old, x=x, y=y))


def one_more(item: Item, shown: list[Scene]) -> list[Scene]:
    """Something small that nobody spoke of, where there is most room."""
    others = [o for scene in (*scenes(item, "sources"), shown[-1]) for o in scene.objects]
    grid = [(x, y) for x in range(7, 58, 5) for y in range(7, 58, 5)]
    x, y = max(grid, key=lambda at: min((at[0] - o.x) ** 2 + (at[1] - o.y) ** 2 for o in others))
    shape = next(s for s in SHAPES if s not in {o.shape for o in others})
    return [*shown[:-1], Scene((*shown[-1].objects, Object(shape, "green", x, y, 4.5)))]


def rest_moved(item: Item, shown: list[Scene]) -> list[Scene]:
    """What must stay is five pixels further out."""
    old = kept(item)
    return shown if old is None else swapped(shown, old, replace(old, y=old.y + (-5 if old.y < 32 else 5)))


def nothing_done(item: Item, shown: list[Scene]) -> list[Scene]:
    return scenes(item, "sources") or [shown[0]] * len(shown)


def picture(item: Item, change: Change = right) -> Image.Image:
    """What is drawn of an item: of a conversation, its pictures side by side."""
    drawn = [draw(scene) for scene in change(item, scenes(item))]
    row = Image.new("RGB", (64 * len(drawn), 64))
    for number, one in enumerate(drawn):
        row.paste(one, (64 * number, 0))
    return row


@dataclass
class Painter:
    """A bridge that draws as `change` says, and thinks what is right."""

    change: Callable[[Item, str], Change] = lambda item, row: right  # of an item and a row
    identity: Mapping[str, Any] = field(default_factory=lambda: BRIDGE)
    alone = False

    def generation(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return {"num_inference_steps": 1, "guidance_scale": 1.0}

    def draw(
        self, row: str, samples: Sequence[Sample], images: Sequence[Sequence[Image.Image]], settings: Mapping[str, Any]
    ) -> list[Drawing]:
        for sample, own in zip(samples, images, strict=True):
            assert [one.tobytes() for one in own] == [draw(scene).tobytes() for scene in scenes(sample.item, "sources")]
        return [Drawing(picture(s.item, self.change(s.item, row)), s.item.want["rewrite"] if row == "think" else None) for s in samples]
