"""Sheets of drawings: every tile is there, fits, and is marked."""

from __future__ import annotations

import pytest
from PIL import Image, ImageColor

from metabridge.bridge.sheet import INK, LINE, PAD, RIGHT, SIDE, UNKNOWN, WRONG, Tile, compose, shown


def colors(image: Image.Image) -> set[tuple[int, ...]]:
    return {color for _, color in image.getcolors(1 << 20) or []}


def test_tiles_stand_in_rows_over_their_texts() -> None:
    names = ("red", "green", "blue", "gray", "black")
    tiles = [shown(Image.new("RGB", (64, 64), name), name) for name in names]
    page = compose(tiles, columns=4)
    assert page.size == (4 * (SIDE + PAD) + PAD, 2 * (SIDE + 8 + LINE + PAD) + PAD)
    for index, name in enumerate(names):
        centre = (PAD + index % 4 * (SIDE + PAD) + SIDE // 2, PAD + index // 4 * (SIDE + 8 + LINE + PAD) + SIDE // 2)
        assert page.getpixel(centre) == ImageColor.getrgb(name)
    assert compose(tiles, columns=4, title="step 4").height > page.height


def test_long_texts_are_cut_and_long_words_broken() -> None:
    image = Image.new("RGB", (64, 64))
    short, long = compose([shown(image, "word")]), compose([shown(image, "word " * 90)])
    assert long.height == short.height + 3 * LINE and long.width == short.width
    assert compose([shown(image, "x" * 90)]).height > short.height
    assert compose([shown(image, "", "a thought")]).height == short.height + LINE  # an empty prompt is said to be empty


@pytest.mark.parametrize("size", [(64, 64), (96, 40), (700, 500), (30, 300)])
def test_pictures_of_any_size_fit(size: tuple[int, int]) -> None:
    page = compose([Tile(Image.new("RGB", size, "red"), ())])
    assert page.size == (SIDE + 2 * PAD, SIDE + 8 + 2 * PAD)
    assert page.getpixel((PAD + SIDE // 2, PAD + SIDE // 2)) == (255, 0, 0)


def test_marks_are_told_apart() -> None:
    marks = {"right": RIGHT, "wrong": WRONG, "unscored": UNKNOWN}
    pages = {mark: compose([Tile(None, (("a star", INK),), mark)]) for mark in marks}
    for mark, page in pages.items():
        assert {other for other, color in marks.items() if ImageColor.getrgb(color) in colors(page)} == {mark}
