"""The pictures that come with a prompt: files of the benchmark's data, or what its reader draws; and what should be drawn, if it knows."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval.benchmarks import Benchmark
from metabridge.eval.items import Item


def sources(benchmark: Benchmark, item: Item, data: Path | None) -> list[Image.Image]:
    if not item.images:
        return []
    reader = benchmark.reader_module()
    if hasattr(reader, "sources"):
        drawn: list[Image.Image] = reader.sources(item)
        return drawn
    return [_read((data or Path()) / name, item) for name in item.images]


def targets(benchmark: Benchmark, item: Item) -> list[Image.Image]:
    """A picture a turn that would be right; none where that cannot be said."""
    reader = benchmark.reader_module()
    known: list[Image.Image] = reader.targets(item) if hasattr(reader, "targets") else []
    return known


def _read(path: Path, item: Item) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: the picture of {item.id} cannot be read ({' '.join(str(error).split())}); mend it") from error
