"""Contact sheets: what was drawn, worst prompts first, right and wrong marked, with prompt, thought and what is wrong below."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from metabridge.eval import store
from metabridge.eval.generate import INFRA_ERROR, MODEL_ERROR
from metabridge.eval.score import Scored

COLUMNS = 6
MOST = 12  # pictures on a sheet
_SIDE, _PAD, _LINE, _TEXT = 192, 18, 19, 14  # pixels
_INK, _FAINT, _RIGHT, _WRONG, _UNKNOWN, _EDGE, _PAPER = ("#1b1f24", "#6a737d", "#1a8f4b", "#cf3038", "#9a6700", "#d0d7de", "#ffffff")


@dataclass(frozen=True)
class Tile:
    image: Image.Image | None  # None = nothing was drawn
    mark: str  # right, wrong, unscored, or "" for a picture that is only shown
    lines: tuple[tuple[str, str], ...]  # (text, color)


def choose(scored: Sequence[Scored], most: int = MOST) -> list[Scored]:
    """Worst prompts first, one picture of each before a second one; a quarter of the sheet is kept for right ones where there are any."""
    prompts: dict[str, list[Scored]] = {}
    for s in scored:
        prompts.setdefault(s.sample.item.id, []).append(s)
    share = {name: sum(s.correct for s in pictures) / len(pictures) for name, pictures in prompts.items()}
    ranked = sorted(scored, key=lambda s: (s.correct, s.sample.k, share[s.sample.item.id], s.sample.item.number))
    wrong, right = [s for s in ranked if not s.correct], [s for s in ranked if s.correct]
    kept = min(len(right), max(most // 4, most - len(wrong)))
    return wrong[: most - kept] + right[:kept]


def sheet(scored: Sequence[Scored], folder: Path) -> Image.Image:
    return compose([_tile(s, folder) for s in choose(scored)])


def compose(tiles: Sequence[Tile], columns: int = COLUMNS) -> Image.Image:
    """Tiles in rows; every row is as high as its longest text."""
    font = ImageFont.load_default(_TEXT)
    columns = min(columns, len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    texts = [[_wrapped(tile, font) for tile in row] for row in rows]
    heights = [_SIDE + 8 + _LINE * max(len(lines) for lines in row) + _PAD for row in texts]
    canvas = Image.new("RGB", (columns * (_SIDE + _PAD) + _PAD, sum(heights) + _PAD), _PAPER)
    pen = ImageDraw.Draw(canvas)
    y = _PAD
    for row, lines, height in zip(rows, texts, heights, strict=True):
        for column, tile in enumerate(row):
            _place(canvas, pen, tile, lines[column], font, _PAD + column * (_SIDE + _PAD), y)
        y += height
    return canvas


def save(image: Image.Image, path: Path) -> bytes:
    buffer = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    store.write(path, buffer.getvalue())
    return buffer.getvalue()


def shown(image: Image.Image, prompt: str, thought: str | None) -> Tile:
    """A picture that nobody scored, with its prompt and thought."""
    return Tile(image, "", ((prompt, _INK), *(((f"“{thought}”", _FAINT),) if thought is not None else ())))


def _tile(s: Scored, folder: Path) -> Tile:
    lines = [(s.sample.item.text, _INK)]
    if s.thought is not None:
        lines.append((f"“{s.thought}”", _FAINT))
    if s.reason:
        lines.append((s.reason, _UNKNOWN if s.state == INFRA_ERROR else _WRONG))
    if s.state in (INFRA_ERROR, MODEL_ERROR):
        return Tile(None, "unscored" if s.state == INFRA_ERROR else "wrong", tuple(lines))
    with Image.open(folder / s.sample.file) as image:
        return Tile(image.convert("RGB"), "right" if s.correct else "wrong", tuple(lines))


def _place(canvas: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, lines: list[tuple[str, str]], font: _Font, x: int, y: int) -> None:
    edge = {"right": _RIGHT, "wrong": _WRONG, "unscored": _UNKNOWN, "": _EDGE}[tile.mark]
    if tile.image is not None:
        whole = tile.image.width <= _SIDE and _SIDE % tile.image.width == 0  # small pictures stay sharp
        method = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
        canvas.paste(tile.image.resize((_SIDE, _SIDE), method), (x, y))
    width = 3 if tile.mark else 1
    pen.rectangle((x - width, y - width, x + _SIDE + width - 1, y + _SIDE + width - 1), outline=edge, width=width)
    if tile.mark:
        _mark(pen, tile.mark, edge, x + _SIDE - 26, y)
    for number, (text, color) in enumerate(lines):
        pen.text((x - 2, y + _SIDE + 8 + _LINE * number), text, fill=color, font=font)


def _mark(pen: ImageDraw.ImageDraw, mark: str, edge: str, x: int, y: int) -> None:
    """A tick, a cross or a dash in the corner: color alone would not do for everybody."""
    pen.rectangle((x, y, x + 25, y + 25), fill=edge)
    if mark == "unscored":
        pen.line([(x + 7, y + 13), (x + 19, y + 13)], fill=_PAPER, width=3)
    elif mark == "right":
        pen.line([(x + 6, y + 13), (x + 11, y + 18), (x + 20, y + 8)], fill=_PAPER, width=3, joint="curve")
    else:
        pen.line([(x + 8, y + 8), (x + 18, y + 18)], fill=_PAPER, width=3)
        pen.line([(x + 18, y + 8), (x + 8, y + 18)], fill=_PAPER, width=3)


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _wrapped(tile: Tile, font: _Font, most: int = 4) -> list[tuple[str, str]]:
    """Each text in as many lines as it needs, at most four; what is cut ends in an ellipsis."""
    wrapped = []
    for text, color in tile.lines:
        lines = [""]
        for piece in (piece for word in text.split() for piece in _pieces(word, font)):
            longer = f"{lines[-1]} {piece}".strip()
            if not lines[-1] or font.getlength(longer) <= _SIDE + 4:
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
        if font.getlength(pieces[-1] + letter) > _SIDE:
            pieces.append("")
        pieces[-1] += letter
    return pieces
