"""A sheet of samples: targets as they would be cut, with their prompts; what an edit starts from stands before it."""

from __future__ import annotations

import itertools

from PIL import Image

from metabridge.bridge.files import png
from metabridge.bridge.interfaces import Example
from metabridge.bridge.sheet import FAINT, PAD, PAPER, Tile, compose, shown
from metabridge.training.frames import Frames

SAMPLES = 12  # of a source
COLUMNS = 6
SOURCES = 3  # pictures of a row that are shown beside its target


class Samples:
    """Usable rows, evenly over those that are looked at."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self.kept: list[Example] = []
        self.begin(SAMPLES)

    def begin(self, planned: int) -> None:
        """Of another source, of which so many rows will be looked at."""
        self.every, self.next, self.left = max(1, planned // SAMPLES), 1, SAMPLES

    def offer(self, number: int, example: Example) -> None:
        if number >= self.next and self.left:
            self.kept.append(example)
            self.next, self.left = self.next + self.every, self.left - 1

    def png(self, title: str) -> bytes:
        """Rows with as many pictures stand together."""
        by_pictures = sorted(self.kept, key=lambda example: len(example.images[:SOURCES]))
        sheets: list[Image.Image] = []
        for pictures, rows in itertools.groupby(by_pictures, key=lambda example: len(example.images[:SOURCES])):
            tiles = [tile for example in rows for tile in self.tiles(example)]
            across = (pictures + 1) * max(1, COLUMNS // (pictures + 1))
            sheets.append(compose(tiles, across, title if not sheets else ""))
        return png(_stacked(sheets), {})

    def tiles(self, example: Example) -> list[Tile]:
        assert example.target is not None
        size = self.frames.nearest(*example.target.size)
        target = Image.fromarray(Frames((size,), upscale=True).fit(example.target, size))
        tile = shown(target, example.prompt, example.thought)
        if example.history:
            earlier = next((turn.text for turn in reversed(example.history) if turn.text), "")
            tile = Tile(tile.image, ((f"after {len(example.history)} turns: {earlier}", FAINT), *tile.lines))
        given = [
            Tile(image, ((f"given, {number} of {len(example.images)}" if len(example.images) > 1 else "given", FAINT),))
            for number, image in enumerate(example.images[:SOURCES], 1)
        ]
        return [*given, tile]


def _stacked(sheets: list[Image.Image]) -> Image.Image:
    if not sheets:
        return Image.new("RGB", (PAD, PAD), PAPER)
    canvas = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), PAPER)
    top = 0
    for sheet in sheets:
        canvas.paste(sheet, (0, top))
        top += sheet.height
    return canvas
