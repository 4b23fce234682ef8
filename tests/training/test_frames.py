"""Buckets: sizes that the hand takes, pictures cut to them, steps of one bucket each."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabridge.adapters import load
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Hand
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Part, Train
from metabridge.training.data import Mixture
from metabridge.training.frames import Frames, group
from metabridge.training.schema import BadRow, decoded, upright_size
from tests.rows import picture, write_jsonl, write_pictures


@pytest.fixture(scope="module")
def hand(hand_folder: Path) -> Hand:
    hand: Hand = load("hands", Part("sana", {"repo": str(hand_folder)}))
    return hand


def test_squares_alone(hand: Hand) -> None:
    assert Frames.of(hand, Train()).sizes == ((64, 64),)
    assert Frames.of(hand, Train(size=96)).sizes == ((96, 96),)
    with pytest.raises(UserError, match=r"height, width: 65x65 given; each is a multiple of 4 for this hand"):
        Frames.of(hand, Train(size=65))


def test_buckets_have_one_area_and_are_the_hands(hand: Hand) -> None:
    frames = Frames.of(hand, Train(size=128, max_aspect=2.0))
    assert (128, 128) in frames.sizes and len(frames.sizes) >= 8
    for height, width in frames.sizes:
        hand.latent_shape(height, width)
        assert max(height / width, width / height) <= 2 and abs(math.log(height * width / 128**2)) < 0.06
    assert [width for _, width in frames.sizes] == sorted({width for _, width in frames.sizes})
    assert frames.nearest(300, 300) == (128, 128)
    assert frames.nearest(1000, 10) == frames.sizes[-1] and frames.nearest(10, 1000) == frames.sizes[0]


def test_a_picture_is_covered_and_cut_at_the_centre() -> None:
    frames = Frames(((2, 2),))
    image = Image.new("RGB", (4, 2))
    for x in range(4):
        for y in range(2):
            image.putpixel((x, y), (x, 0, 255))
    assert frames.fit(image, (2, 2))[:, :, 0].tolist() == [[1, 2], [1, 2]]
    assert frames.fit(picture(0, (200, 100)), (64, 64)).shape == (64, 64, 3)
    with pytest.raises(BadRow, match=r"the target has 4x2 pixels, fewer than the 8x8 it is trained at; lower train.size"):
        frames.fit(image, (8, 8))
    assert Frames(((8, 8),), upscale=True).fit(image, (8, 8)).shape == (8, 8, 3)


def test_any_mode_and_either_way_up(tmp_path: Path) -> None:
    glass = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert decoded(glass).getpixel((0, 0)) == (255, 255, 255)
    for mode in ("L", "P", "CMYK", "I;16", "1", "LA"):
        assert decoded(Image.new(mode, (8, 8))).mode == "RGB"
    sideways = Image.Exif()
    sideways[0x0112] = 6
    picture(0, (40, 20)).save(tmp_path / "a.jpg", exif=sideways)
    with Image.open(tmp_path / "a.jpg") as image:
        assert upright_size(image) == (20, 40) and decoded(image).size == (20, 40)


def test_no_more_of_a_jpeg_is_decoded_than_is_needed(tmp_path: Path) -> None:
    picture(0, (1024, 1024)).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        assert decoded(image, (100, 100)).size == (128, 128)
    with Image.open(tmp_path / "a.jpg") as image:
        small = Frames(((100, 100),)).fit(image, (100, 100)).astype(int)
    whole = np.asarray(decoded(Image.open(tmp_path / "a.jpg")).resize((100, 100), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(small - whole).mean() < 1.5


def test_a_window_loses_no_row_and_repeats_none() -> None:
    rng = np.random.default_rng(0)
    frames = Frames(((8, 16), (12, 12), (16, 8)))
    sizes = {row: (int(h), int(w)) for row, (h, w) in enumerate(rng.integers(8, 40, (64, 2)))}
    steps = group(sizes, frames, 8, 0)
    assert sorted(row for _, rows in steps for row in rows) == list(range(64)) and all(len(rows) == 8 for _, rows in steps)
    own = sum(frames.nearest(*sizes[row][::-1]) == bucket for bucket, rows in steps for row in rows)
    assert own >= 64 - 8 * (len(frames.sizes) - 1)
    assert steps != group(sizes, frames, 8, 1)


def test_steps_of_one_size_and_every_row_once(tree: dict[str, Any], hand: Hand, tmp_path: Path) -> None:
    names = write_pictures(tmp_path, 32, [(96, 64), (64, 64), (64, 96), (70, 66)])
    path = write_jsonl(tmp_path, [{"prompt": str(k), "target": name} for k, name in enumerate(names)])
    tree["data"] = [{"source": "jsonl", "path": str(path)}]
    tree["objective"] = {"drop_text": 0.0}
    tree["train"] |= {"max_aspect": 1.5, "size": 64, "upscale": True}
    mixture = Mixture(Recipe.from_dict(tree), hand)
    seen = Counter[str]()
    for step in range(16):  # two epochs
        rows = [mixture.row(step, index) for index in range(4)]
        assert len({row.pixels.shape for row in rows if row.pixels is not None}) == 1
        assert rows[0].pixels is not None and rows[0].pixels.shape[:2] == mixture.size(step)
        seen.update(row.example.prompt for row in rows)
    assert len({mixture.size(step) for step in range(16)}) >= 3
    assert sum(seen.values()) == 64 and max(seen.values()) <= 32  # a window is longer than these epochs
    whole = Counter(mixture.row(step, index).example.prompt for step in range(mixture.window) for index in range(4))
    assert set(whole.values()) == {mixture.window * 4 // 32}


def test_sixteen_bits_of_grey_are_not_cut_to_white() -> None:
    ramp = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
    assert ramp.mode == "I;16"
    for mode in ("I;16", "I"):  # as for the brain and in drawing
        assert np.asarray(decoded(ramp.convert(mode)))[..., 0].flatten().tolist() == list(range(256))


def test_drawn_rows_are_square_beside_buckets(tree: dict[str, Any], hand: Hand) -> None:
    tree["train"] |= {"max_aspect": 2.0, "size": 64}
    mixture = Mixture(Recipe.from_dict(tree), hand)
    assert [mixture.size(step) for step in range(3)] == [(64, 64)] * 3
    assert mixture.row(0, 0).pixels is not None
