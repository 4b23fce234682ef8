"""Pictures of any mode and size, as a brain gets to see them."""

from __future__ import annotations

import io
import json
import logging
import random
from pathlib import Path

import numpy as np
import pytest
from brain_families import FAMILIES
from PIL import Image

from metabridge.adapters.brains.auto import load
from metabridge.adapters.collate import ChatCollate
from metabridge.adapters.pictures import MAX_ASPECT, MAX_PIXELS, MAX_SIDE, fitted_size, plain
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example

GREYS = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 4


def reopened(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    """As it comes from a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_rgb_stays_as_it_is(picture: Image.Image) -> None:
    assert (pixels(plain(picture)) == pixels(picture)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_shows_white(mode: str) -> None:
    alpha = np.zeros((32, 32), np.uint8)
    alpha[:, :16], alpha[:, 16:24] = 255, 51
    grey = Image.merge("LA", [Image.new("L", (32, 32), 100), Image.fromarray(alpha)])
    seen = pixels(plain(grey.convert(mode)))
    expected = 255 - 155 * (alpha / 255)
    assert np.abs(seen - expected[..., None]).max() <= 1


@pytest.mark.parametrize("transparency", [0, bytes([0, 255, 128])], ids=["one colour", "alpha of each colour"])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    source = Image.fromarray(np.arange(33, dtype=np.uint8)[None] // 11, "P")
    source.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    red, green, blue = pixels(plain(reopened(source, transparency=transparency)))[0, ::11]
    assert red.tolist() == [255, 255, 255] and green.tolist() == [0, 255, 0]
    assert blue.tolist() == ([0, 0, 255] if transparency == 0 else [127, 127, 255])


def test_a_colour_that_stands_for_transparent() -> None:
    source = Image.new("RGB", (40, 40), (10, 20, 30))
    source.putpixel((1, 0), (200, 0, 0))
    assert pixels(plain(reopened(source, transparency=(10, 20, 30))))[0, :2].tolist() == [[255, 255, 255], [200, 0, 0]]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    for source in (Image.fromarray(GREYS.astype(np.uint16) * 257), Image.fromarray(GREYS.astype(np.int32) * 257)):
        assert source.mode in ("I;16", "I")
        assert (pixels(plain(source)) == GREYS[..., None]).all()
    assert (pixels(plain(reopened(Image.fromarray(GREYS.astype(np.uint16) * 257)))) == GREYS[..., None]).all()


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "P", "HSV", "YCbCr", "RGBX", "F"])
def test_other_modes_keep_their_colours(mode: str) -> None:
    grey = Image.fromarray(np.where(GREYS > 128, 255, 0).astype(np.uint8))
    source = grey.convert(mode) if mode in ("1", "F", "L", "P") else grey.convert("RGB").convert(mode)
    assert source.mode == mode
    assert np.abs(pixels(plain(source)) - np.asarray(grey).astype(int)[..., None]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    upright = Image.fromarray(np.kron(GREYS[:4, 4:9], np.ones((8, 8), np.uint8))).convert("RGB")
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = reopened(stored, exif=exif)
    assert (pixels(plain(source)) == pixels(upright)).all()
    assert source.size == stored.size  # the picture that was given is as it was


def test_a_large_picture_keeps_its_aspect_within_max_pixels() -> None:
    assert plain(Image.new("L", (4000, 2000))).size == (1448, 724)
    assert plain(Image.new("RGB", (64, 64)), max_pixels=1024).size == (32, 32)


def test_no_picture_has_more_than_max_pixels_or_is_too_thin() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        width, height = (int(10 ** draw.uniform(0, 4.4)) for _ in range(2))
        limit = int(10 ** draw.uniform(3.02, 6.5))
        fitted = fitted_size(width, height, limit)
        bordered = [max(side, max(fitted) // MAX_ASPECT) for side in fitted]
        assert bordered[0] * bordered[1] <= limit
        assert min(fitted) >= 1 and max(fitted) <= MAX_SIDE * limit**0.5 and max(bordered) <= 2 * MAX_ASPECT * min(bordered)
        if min(fitted) > 50:
            assert fitted[0] / fitted[1] == pytest.approx(width / height, rel=0.02)


@pytest.mark.parametrize(
    ("size", "seen"), [((1, 1), (32, 32)), ((2, 5), (12, 32)), ((1, 20_000), (40, 4096)), ((20_000, 8), (4096, 40)), ((1, 150), (1, 150))]
)
def test_thin_pictures_get_white_borders(size: tuple[int, int], seen: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        image = plain(Image.new("RGB", size, "red"))
    assert image.size == seen
    assert bool(caplog.records) == (max(size) > MAX_ASPECT and seen != size)
    if caplog.records:
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert (255, 0, 0) in [color for _, color in image.getcolors()]


def test_a_picture_cut_short_is_one_line(picture: Image.Image) -> None:
    file = io.BytesIO()
    picture.save(file, "PNG")
    with pytest.raises(UserError, match=r"image: a 48 ?x ?64 picture of mode RGB cannot be read \(.*\); save it anew"):
        plain(Image.open(io.BytesIO(file.getvalue()[:2000])))


def test_a_mode_without_a_way_to_rgb_is_one_line() -> None:
    with pytest.raises(UserError, match="picture of mode La cannot be read"):
        plain(Image.new("La", (4, 4)))


@pytest.mark.parametrize("given", [100, 2.5, "many"])
def test_max_pixels_is_checked(brain_folder: Path, given: object) -> None:
    with pytest.raises(UserError, match=r"brain\.max_pixels: .* given; a whole number from 1024 \(32 x 32\) on, 1048576 by default"):
        load(str(brain_folder), max_pixels=given)  # type: ignore[arg-type]


def test_max_pixels_bounds_what_the_brain_reads(brain_folder: Path) -> None:
    """Its own processor would take 64 patches of this picture."""
    rows = [Example("edit it", (Image.new("RGB", (64, 64), "red"),))]
    read = {limit: load(str(brain_folder), max_pixels=limit).collate(rows)["image_grid_thw"].tolist() for limit in (1024, MAX_PIXELS)}
    assert read == {1024: [[1, 4, 4]], MAX_PIXELS: [[1, 8, 8]]}


def test_what_the_processor_refuses_is_one_line(tmp_path: Path) -> None:
    folder = FAMILIES["mistral3"].make(tmp_path / "brain")
    tree = json.loads((folder / "processor_config.json").read_text())
    tree["image_processor"]["size"] = {"longest_edge": 32}  # no room for a picture a hundred times as wide as high
    (folder / "processor_config.json").write_text(json.dumps(tree))
    collate = ChatCollate(str(folder), "main", "{prompt}")
    with pytest.raises(UserError, match=r"image: the brain's own processor refuses pictures of 800 x 8 \(.*\)$"):
        collate([Example("edit it", (Image.new("RGB", (800, 8)),))])
