"""Contact sheets: what was drawn, worst prompts first, right and wrong marked, with prompt, thought and what is wrong below."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from metabridge.bridge.sheet import FAINT, INK, UNKNOWN, WRONG, Tile, compose
from metabridge.eval import store
from metabridge.eval.generate import INFRA_ERROR, MODEL_ERROR
from metabridge.eval.score import Scored

MOST = 12  # pictures on a sheet


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


def save(image: Image.Image, path: Path) -> bytes:
    buffer = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    store.write(path, buffer.getvalue())
    return buffer.getvalue()


def _tile(s: Scored, folder: Path) -> Tile:
    lines = [(s.sample.item.text, INK)]
    if s.thought is not None:
        lines.append((f"“{s.thought}”", FAINT))
    if s.reason:
        lines.append((s.reason, UNKNOWN if s.state == INFRA_ERROR else WRONG))
    if s.state in (INFRA_ERROR, MODEL_ERROR):
        return Tile(None, tuple(lines), "unscored" if s.state == INFRA_ERROR else "wrong")
    with Image.open(folder / s.sample.file) as image:
        return Tile(image.convert("RGB"), tuple(lines), "right" if s.correct else "wrong")
