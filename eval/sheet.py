"""Contact sheets: what was drawn, worst prompts first, right and wrong marked, with prompt, thought and what is wrong below."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from metabridge.bridge.sheet import FAINT, INK, UNKNOWN, WRONG, Tile, compose
from metabridge.eval import store
from metabridge.eval.benchmarks import Metric
from metabridge.eval.items import INFRA_ERROR, OK
from metabridge.eval.score import Scored

MOST = 12  # pictures on a sheet


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


def sheet(scored: Sequence[Scored], folder: Path, metric: Metric, data: Path | None = None) -> Image.Image:
    return compose([_tile(s, folder, metric, data) for s in scored])


def save(image: Image.Image, path: Path) -> bytes:
    buffer = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    store.write(path, buffer.getvalue())
    return buffer.getvalue()


def _tile(s: Scored, folder: Path, metric: Metric, data: Path | None) -> Tile:
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
            shown = _beside(s, image.convert("RGB"), data)
    except (OSError, SyntaxError, ValueError):  # gone or damaged since it was scored: the number stands, the picture cannot
        shown = None
    return Tile(shown, tuple(lines), mark, badge)


def _mark(s: Scored, metric: Metric) -> tuple[str, str]:
    """How the tile is marked, and what stands in its corner; nothing where the picture is not right or wrong by itself."""
    value, good = value_of(s.values, metric), goodness(metric)(s)
    if value is None or not is_marked(metric):
        return "", ""
    return "right" if good >= 1 else "wrong" if good < 0.5 else "partly", "" if good in (0, 1) else f"{value:.{metric.digits}f}"


def _beside(s: Scored, drawn: Image.Image, data: Path | None) -> Image.Image:
    """An edit, with the first picture it started from on its left."""
    if data is None or not s.sample.item.images:
        return drawn
    with Image.open(data / s.sample.item.images[0]) as image:
        source = image.convert("RGB").resize(
            (max(1, round(image.width * drawn.height / image.height)), drawn.height), Image.Resampling.LANCZOS
        )
    both = Image.new("RGB", (source.width + 2 + drawn.width, drawn.height), "white")
    both.paste(source, (0, 0))
    both.paste(drawn, (source.width + 2, 0))
    return both
