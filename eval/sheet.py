"""Contact sheets: what was drawn, worst prompts first, right and wrong marked, with prompt, thought and what is wrong below."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.sheet import FAINT, INK, UNKNOWN, WRONG, Tile, compose
from metabridge.eval import store
from metabridge.eval.benchmarks import Benchmark, Metric
from metabridge.eval.items import INFRA_ERROR, OK
from metabridge.eval.score import Scored
from metabridge.eval.sources import sources, targets

MOST, COLUMNS = 12, 6  # pictures on a sheet, tiles in a row


def is_marked(metric: Metric) -> bool:
    """Whether a picture is right or wrong by itself: not by a number of all pictures together, nor on a scale without an end."""
    return metric.within != "set" and metric.high is not None


def goodness(metric: Metric) -> Callable[[Scored], float]:
    """0 = worst, 1 = best. Of a ratio, its own points by its own; what has no value of its own counts as best."""

    def of(s: Scored) -> float:
        if s.state != OK:
            return 0.0
        value = value_of(s.values, metric)
        return 1.0 if value is None or not is_marked(metric) else metric.share(value)

    return of


def value_of(values: Mapping[str, float], metric: Metric) -> float | None:
    """A picture's own value by a metric, of a ratio its share; None where it has none, or nothing to count."""
    if metric.source not in values:
        return None
    if metric.within != "ratio":
        return values[metric.source]
    of = values[f"{metric.source}.of"]
    return values[metric.source] / of if of else None


def choose(scored: Sequence[Scored], good: Callable[[Scored], float], most: int = MOST) -> list[Scored]:
    """Worst prompts first, one picture of each before a second one; a quarter of the sheet is kept for right ones where there are any."""
    prompts: dict[str, list[Scored]] = {}
    for s in scored:
        prompts.setdefault(s.sample.item.id, []).append(s)
    share = {name: sum(map(good, pictures)) / len(pictures) for name, pictures in prompts.items()}
    ranked = sorted(scored, key=lambda s: (good(s), s.sample.k, share[s.sample.item.id], s.sample.item.number))
    wrong, right = [s for s in ranked if good(s) < 1], [s for s in ranked if good(s) >= 1]
    kept = min(len(right), max(most // 4, most - len(wrong)))
    return wrong[: most - kept] + right[:kept]


def most(benchmark: Benchmark, s: Scored) -> int:
    """Pictures on a sheet; half as many of those that take several tiles."""
    return MOST // 2 if s.sample.item.turns or targets(benchmark, s.sample.item) else MOST


def sheet(scored: Sequence[Scored], folder: Path, benchmark: Benchmark, data: Path | None = None) -> Image.Image:
    """What belongs together stays in a row."""
    rows = [_tiles(s, folder, benchmark, data) for s in scored]
    width = max(map(len, rows))
    return compose([tile for row in rows for tile in row], width * max(1, COLUMNS // width))


def save(image: Image.Image, path: Path) -> bytes:
    buffer = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    store.write(path, buffer.getvalue())
    return buffer.getvalue()


def _tiles(s: Scored, folder: Path, benchmark: Benchmark, data: Path | None) -> list[Tile]:
    """A conversation picture by picture; an edit beside what it started from and, where that is known, what was asked for."""
    item, metric = s.sample.item, benchmark.metrics[0]
    if item.turns:
        return _turns(s, folder, metric)
    try:
        given = sources(benchmark, item, data)
    except UserError:  # gone since it was drawn from: the number stands
        given = []
    wanted = targets(benchmark, item)
    if not wanted:
        return [_tile(s, folder, metric, given)]
    before, after = ([Tile(image, ((word, FAINT),)) for image in images] for word, images in (("given", given), ("asked for", wanted)))
    return [*before, _tile(s, folder, metric), *after]


def _turns(s: Scored, folder: Path, metric: Metric) -> list[Tile]:
    """A tile a turn, with its own words; the scorer may say in `turns` of its detail what is wrong with each."""
    texts, whole = s.sample.item.turns, _tile(s, folder, metric)
    thoughts = (s.thought or "").split("\n") if s.thought is not None else []
    reasons = s.detail.get("turns", [*[""] * (len(texts) - 1), s.reason])
    tiles = []
    for number, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
        lines = [(text, INK), *((f"“{thought}”", FAINT) for thought in thoughts[number : number + 1])]
        lines += [(reason, UNKNOWN if s.state == INFRA_ERROR else WRONG)] if reason else []
        image = whole.image
        if image is not None:
            side = image.width // len(texts)
            image = image.crop((side * number, 0, side * (number + 1), image.height))
        mark = whole.mark if "turns" not in s.detail else "wrong" if reason else "right"
        tiles.append(Tile(image, tuple(lines), mark))
    return tiles


def _tile(s: Scored, folder: Path, metric: Metric, before: Sequence[Image.Image] = ()) -> Tile:
    """A picture, those it started from on its left."""
    lines = [(s.sample.item.text, INK)]
    if s.thought is not None:
        lines.append((f"“{s.thought}”", FAINT))
    if s.reason:
        lines.append((s.reason, UNKNOWN if s.state == INFRA_ERROR else WRONG))
    if s.state != OK:
        return Tile(None, tuple(lines), "unscored" if s.state == INFRA_ERROR else "wrong")
    mark, badge = _mark(s, metric)
    try:
        with Image.open(folder / s.sample.file) as image:
            shown = _beside(before, image.convert("RGB"))
    except (OSError, SyntaxError, ValueError):  # gone or damaged since it was scored: the number stands, the picture cannot
        shown = None
    return Tile(shown, tuple(lines), mark, badge)


def _mark(s: Scored, metric: Metric) -> tuple[str, str]:
    """How the tile is marked, and what stands in its corner; nothing where the picture is not right or wrong by itself."""
    value, good = value_of(s.values, metric), goodness(metric)(s)
    if value is None or not is_marked(metric):
        return "", ""
    return "right" if good >= 1 else "wrong" if good < 0.5 else "partly", "" if good in (0, 1) else f"{value:.{metric.digits}f}"


def _beside(before: Sequence[Image.Image], drawn: Image.Image) -> Image.Image:
    """Side by side, all as high as what was drawn."""
    row = [_as_high(image, drawn.height) for image in before] + [drawn]
    both = Image.new("RGB", (sum(image.width + 2 for image in row) - 2, drawn.height), "white")
    x = 0
    for image in row:
        both.paste(image, (x, 0))
        x += image.width + 2
    return both


def _as_high(image: Image.Image, height: int) -> Image.Image:
    return image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.LANCZOS)
