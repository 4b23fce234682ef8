"""Small sources of rows, written by the test that reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Size = tuple[int, int]


def picture(seed: int, size: Size = (64, 64)) -> Image.Image:
    """Smooth colors that tell one seed from another, also after a JPEG."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def write_pictures(folder: Path, count: int, sizes: Sequence[Size] = ((64, 64),), suffix: str = "png") -> list[str]:
    names = [f"{k:03d}.{suffix}" for k in range(count)]
    for k, name in enumerate(names):
        picture(k, sizes[k % len(sizes)]).save(folder / name)
    return names


def write_jsonl(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
