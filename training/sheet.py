"""A labelled grid of drawings: what a run has learnt, for eyes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, MARGIN = 176, 14, 24  # pixels
INK, PALE, PAPER, EDGE = "#1f2328", "#6e7781", "#ffffff", "#d0d7de"


def sheet(images: Sequence[Image.Image], labels: Sequence[str], title: str, columns: int = 4) -> Image.Image:
    """Drawings in rows of `columns`, each over its prompt."""
    large, small = ImageFont.load_default(18), ImageFont.load_default(13)
    columns = min(columns, len(images))
    wrapped = [_wrap(label, small, CELL) for label in labels]
    caption = 17 * max(len(lines) for lines in wrapped) + 8
    rows = math.ceil(len(images) / columns)
    width = 2 * MARGIN + columns * CELL + (columns - 1) * GAP
    height = 2 * MARGIN + 34 + rows * (CELL + caption) + (rows - 1) * GAP
    page = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((MARGIN, MARGIN - 4), title, INK, large)
    for index, (image, lines) in enumerate(zip(images, wrapped, strict=True)):
        x = MARGIN + index % columns * (CELL + GAP)
        y = MARGIN + 34 + index // columns * (CELL + caption + GAP)
        page.paste(_fit(image), (x, y))
        pen.rectangle((x - 1, y - 1, x + CELL, y + CELL), outline=EDGE)
        for number, line in enumerate(lines):
            pen.text((x, y + CELL + 6 + 17 * number), line, PALE, small)
    return page


def _fit(image: Image.Image) -> Image.Image:
    """Into a cell; small drawings keep their pixels sharp."""
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    scaled = image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (CELL, CELL), PAPER)
    cell.paste(scaled, ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return cell


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int = 4) -> list[str]:
    """Words in lines of `width` pixels; what would need more than `most` lines ends in an ellipsis."""
    lines = [""]
    for word in (text or "(empty)").split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " …"]
