"""A picture as what a terminal shows: kitty's graphics protocol, iTerm2's inline pictures, sixel, coloured half blocks."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image
from rich.color import Color
from rich.segment import Segment, Segments
from rich.style import Style

PIECE = 4096  # base64 characters that kitty takes in one sequence
BAND = 6  # rows of pixels that a row of sixels holds


def fitted(size: tuple[int, int], box: tuple[int, int], enlarge: bool = True) -> tuple[int, int]:
    """The largest size of the same proportions inside `box`, width and height in pixels; `enlarge`: also where it is larger than `size`."""
    scale = min(box[0] / size[0], box[1] / size[1], *([] if enlarge else [1.0]))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Enlarged, a pixel stays a square: small pictures are not blurred."""
    smaller = size[0] < image.width or size[1] < image.height
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS if smaller else Image.Resampling.NEAREST)


def blocks(image: Image.Image) -> Segments:
    """Two pixels a cell: the upper one is the colour of the half block, the lower one of what is behind it. rich knows how many colours."""
    pixels: list[list[list[int]]] = np.asarray(image.convert("RGB")).tolist()
    segments = []
    for y in range(0, image.height, 2):
        lower = pixels[y + 1] if y + 1 < image.height else [None] * image.width
        for above, below in zip(pixels[y], lower, strict=True):
            background = None if below is None else Color.from_rgb(*below)
            segments.append(Segment("▀", Style(color=Color.from_rgb(*above), bgcolor=background)))
        segments.append(Segment.line())
    return Segments(segments)


def kitty(image: Image.Image, columns: int, rows: int) -> str:
    """A PNG in pieces, shown over so many cells; q=2: the terminal does not answer into what is typed next."""
    text = base64.b64encode(as_png(image)).decode()
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    heads = [f"a=T,f=100,q=2,c={columns},r={rows},m={int(len(pieces) > 1)}"]
    heads += [f"m={int(k < len(pieces) - 1)}" for k in range(1, len(pieces))]
    return "".join(f"\x1b_G{head};{piece}\x1b\\" for head, piece in zip(heads, pieces, strict=True))


def iterm(image: Image.Image, columns: int, rows: int) -> str:
    data = as_png(image)
    named = f"inline=1;size={len(data)};width={columns};height={rows};preserveAspectRatio=1"
    return f"\x1b]1337;File={named}:{base64.b64encode(data).decode()}\x07"


def sixel(image: Image.Image) -> str:
    """At most 256 colours, in hundredths; every band of six rows is written once for each colour in it."""
    indexed = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    index = np.asarray(indexed)
    palette = np.asarray(indexed.getpalette(), dtype=int).reshape(-1, 3)
    colors = [f"#{k};2;{';'.join(str(round(v * 100 / 255)) for v in palette[k])}" for k in np.unique(index)]
    bits = 1 << np.arange(BAND)[:, None]
    bands = []
    for top in range(0, image.height, BAND):
        band = index[top : top + BAND]
        lines = [f"#{k}{run_length(((band == k) * bits[: len(band)]).sum(axis=0))}" for k in np.unique(band)]
        bands.append("$".join(lines))  # $ goes back to the left, - to the next band
    return f'\x1bP0;1q"1;1;{image.width};{image.height}{"".join(colors)}{"-".join(bands)}\x1b\\'


def run_length(sixels: np.ndarray) -> str:
    """A sixel is the character 63 + its six bits, the uppermost pixel the lowest one; !5A = AAAAA."""
    text = bytes((sixels + 63).astype(np.uint8)).decode("ascii")
    return re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", text)


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
