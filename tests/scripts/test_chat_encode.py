"""What is sent to a terminal is the picture: each encoding is decoded again, as a terminal does it."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from metabridge.scripts.chat_encode import blocks, fitted, iterm, kitty, resized, sixel

RED, GREEN, BLUE, ODD = (255, 0, 0), (0, 255, 0), (0, 0, 255), (51, 102, 153)


def of(*rows: list[tuple[int, int, int]]) -> Image.Image:
    return Image.fromarray(np.array(rows, dtype=np.uint8))


def noise(width: int, height: int) -> Image.Image:
    pixels = torch.randint(256, (height, width, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def printed(picture: Image.Image, colors: str) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=colors)  # type: ignore[arg-type]
    console.print(blocks(picture), end="")
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_half_blocks_are_two_pixels_a_cell() -> None:
    picture = of([RED, GREEN], [BLUE, ODD], [ODD, RED])
    assert printed(picture, "truecolor") == (
        "\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[0m\x1b[38;2;0;255;0;48;2;51;102;153m▀\x1b[0m\n"
        "\x1b[38;2;51;102;153m▀\x1b[0m\x1b[38;2;255;0;0m▀\x1b[0m\n"  # an odd last row has nothing behind it
    )
    assert printed(picture, "256").startswith("\x1b[38;5;196;48;5;21m▀")


def test_kitty_gets_the_png_in_pieces() -> None:
    picture = noise(80, 60)
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty(picture, 8, 3))
    assert len(pieces) > 2 and all(len(data) <= 4096 and len(data) % 4 == 0 for _, data in pieces)
    assert pieces[0][0] == "a=T,f=100,q=2,c=8,r=3,m=1"
    assert [head for head, _ in pieces[1:]] == ["m=1"] * (len(pieces) - 2) + ["m=0"]
    same(picture, base64.b64decode("".join(data for _, data in pieces)))
    assert kitty(of([RED]), 1, 1).startswith("\x1b_Ga=T,f=100,q=2,c=1,r=1,m=0;")


def test_iterm_gets_the_png_and_its_size() -> None:
    picture = noise(20, 10)
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+);width=8;height=2;preserveAspectRatio=1:([^\x07]*)\x07", iterm(picture, 8, 2))
    assert found
    data = base64.b64decode(found[2])
    assert len(data) == int(found[1])
    same(picture, data)


def same(picture: Image.Image, data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as sent:
        assert sent.format == "PNG" and np.array_equal(np.asarray(sent), np.asarray(picture))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 6), (30, 13)])
def test_sixels_decode_to_the_picture(size: tuple[int, int]) -> None:
    """Colours of which a hundredth is exact, in long runs and short ones."""
    index = torch.randint(6, (size[1], size[0], 3), generator=torch.Generator().manual_seed(1))
    index[:, size[0] // 3 :] = index[:1, size[0] // 3 : size[0] // 3 + 1]
    pixels = (index * 51).to(torch.uint8).numpy()
    assert np.array_equal(decoded(sixel(Image.fromarray(pixels))), pixels)


def test_sixels_of_many_colours_are_near() -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 128, dtype=np.uint8)], axis=-1)
    shown = decoded(sixel(Image.fromarray(pixels)))
    assert np.abs(shown.astype(int) - pixels).mean() < 5


def decoded(text: str) -> np.ndarray:
    found = re.fullmatch(r'\x1bP0;1q"1;1;(\d+);(\d+)((?:#\d+;2;\d+;\d+;\d+)+)(.*)\x1b\\', text)
    assert found
    width, height = int(found[1]), int(found[2])
    shown = np.full((height, width, 3), -1)
    colors = {k: [round(int(v) * 255 / 100) for v in rgb] for k, *rgb in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", found[3])}
    for number, band in enumerate(found[4].split("-")):
        for line in band.split("$"):
            named = re.match(r"#(\d+)", line)
            assert named
            column = 0
            for count, character in re.findall(r"(?:!(\d+))?([?-~])", line[named.end() :]):
                for _ in range(int(count or 1)):
                    for bit in range(6):
                        if ord(character) - 63 & 1 << bit:
                            assert (shown[6 * number + bit, column] == -1).all()  # each pixel once
                            shown[6 * number + bit, column] = colors[named[1]]
                    column += 1
            assert column == width
    assert (shown >= 0).all()
    return shown.astype(np.uint8)


def test_a_picture_is_fitted_with_its_proportions() -> None:
    assert fitted((64, 64), (80, 40)) == (40, 40)
    assert fitted((64, 64), (800, 400)) == (400, 400)
    assert fitted((64, 64), (800, 400), enlarge=False) == (64, 64)
    assert fitted((1000, 1), (10, 10)) == (10, 1)


def test_a_small_picture_is_enlarged_in_squares() -> None:
    large = np.asarray(resized(of([RED, BLUE]), (6, 3)))
    assert (large[:, :3] == RED).all() and (large[:, 3:] == BLUE).all()
