"""Sheets of drawings, for eyes: tiles in rows, each over its text, right and wrong ones marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIDE, PAD, LINE, TEXT, TITLE = 192, 18, 19, 14, 18  # pixels
INK, FAINT, EDGE, PAPER = "#1b1f24", "#6a737d", "#d0d7de", "#ffffff"
RIGHT, PARTLY, WRONG, UNKNOWN = "#1a8f4b", "#b35900", "#cf3038", "#6e5494"


@dataclass(frozen=True)
class Tile:
    image: Image.Image | None  # None = nothing was drawn
    lines: tuple[tuple[str, str], ...]  # (text, color)
    mark: str = ""  # right, partly, wrong, unscored, or "" for a picture that is only shown
    badge: str = ""  # what stands in the corner in the place of the tick, the cross or the dash: a score


def shown(image: Image.Image, prompt: str, thought: str | None = None) -> Tile:
    """A picture that nobody scored, with its prompt and thought."""
    return Tile(image, ((prompt or "(empty)", INK), *(((f"“{thought}”", FAINT),) if thought is not None else ())))


def compose(tiles: Sequence[Tile], columns: int = 6, title: str = "") -> Image.Image:
    """Tiles in rows; every row is as high as its longest text."""
    font = ImageFont.load_default(TEXT)
    columns = min(columns, len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    texts = [[_wrapped(tile, font) for tile in row] for row in rows]
    heights = [SIDE + 8 + LINE * max(len(lines) for lines in row) + PAD for row in texts]
    y = PAD + (TITLE + PAD if title else 0)
    canvas = Image.new("RGB", (columns * (SIDE + PAD) + PAD, y + sum(heights)), PAPER)
    pen = ImageDraw.Draw(canvas)
    if title:
        pen.text((PAD - 2, PAD - 4), title, INK, ImageFont.load_default(TITLE))
    for row, lines, height in zip(rows, texts, heights, strict=True):
        for column, tile in enumerate(row):
            _place(canvas, pen, tile, lines[column], font, PAD + column * (SIDE + PAD), y)
        y += height
    return canvas


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _place(canvas: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, lines: list[tuple[str, str]], font: _Font, x: int, y: int) -> None:
    edge = {"right": RIGHT, "partly": PARTLY, "wrong": WRONG, "unscored": UNKNOWN, "": EDGE}[tile.mark]
    if tile.image is not None:
        fitted = _fit(tile.image)
        canvas.paste(fitted, (x + (SIDE - fitted.width) // 2, y + (SIDE - fitted.height) // 2))
    width = 3 if tile.mark else 1
    pen.rectangle((x - width, y - width, x + SIDE + width - 1, y + SIDE + width - 1), outline=edge, width=width)
    if tile.badge:
        badge = pen.textbbox((0, 0), tile.badge, font=font)[2] + 12
        pen.rectangle((x + SIDE - badge, y, x + SIDE - 1, y + 25), fill=edge)
        pen.text((x + SIDE - badge + 6, y + 4), tile.badge, fill=PAPER, font=font)
    elif tile.mark:
        _mark(pen, tile.mark, edge, x + SIDE - 26, y)
    for number, (text, color) in enumerate(lines):
        pen.text((x - 2, y + SIDE + 8 + LINE * number), text, fill=color, font=font)


def _fit(image: Image.Image) -> Image.Image:
    """Into a tile; small drawings keep their pixels sharp."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


def _mark(pen: ImageDraw.ImageDraw, mark: str, edge: str, x: int, y: int) -> None:
    """A tick, a cross or a dash in the corner: color alone would not do for everybody."""
    pen.rectangle((x, y, x + 25, y + 25), fill=edge)
    if mark == "unscored":
        pen.line([(x + 7, y + 13), (x + 19, y + 13)], fill=PAPER, width=3)
    elif mark == "right":
        pen.line([(x + 6, y + 13), (x + 11, y + 18), (x + 20, y + 8)], fill=PAPER, width=3, joint="curve")
    else:
        pen.line([(x + 8, y + 8), (x + 18, y + 18)], fill=PAPER, width=3)
        pen.line([(x + 18, y + 8), (x + 8, y + 18)], fill=PAPER, width=3)


def _wrapped(tile: Tile, font: _Font, most: int = 4) -> list[tuple[str, str]]:
    """Each text in as many lines as it needs, at most four; what is cut ends in an ellipsis."""
    wrapped = []
    for text, color in tile.lines:
        lines = [""]
        for piece in (piece for word in text.split() for piece in _pieces(word, font)):
            longer = f"{lines[-1]} {piece}".strip()
            if not lines[-1] or font.getlength(longer) <= SIDE + 4:
                lines[-1] = longer
            else:
                lines.append(piece)
        if len(lines) > most:
            lines = [*lines[: most - 1], f"{lines[most - 1]} …"]
        wrapped += [(line, color) for line in lines]
    return wrapped


def _pieces(word: str, font: _Font) -> list[str]:
    """A word that is wider than a picture, cut into such as are not."""
    pieces = [""]
    for letter in word:
        if font.getlength(pieces[-1] + letter) > SIDE:
            pieces.append("")
        pieces[-1] += letter
    return pieces
